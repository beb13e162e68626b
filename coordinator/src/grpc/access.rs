//! Who may ask for what. One place in front of the service, so that a call that is added is an operator's until it is
//! named here as one of viewers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use rekeeper_tls::{Peer, Role, Who};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Request, Status};

/// The header that says who calls, where no certificate does.
const CALLER: &str = "rekeeper-caller";

/// What only looks; `problems` and `export` of the command line are made of a status.
const OF_VIEWERS: [&str; 5] = ["Hosts", "Refusals", "Status", "Events", "Report"];

/// A service that lets through only what the caller's certificate allows.
#[derive(Debug, Clone)]
pub struct Guarded<S>(S);

impl<S> Guarded<S> {
    /// Puts the guard in front of the operator's service.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let peer = request.extensions().get::<Peer>();
        match judge(peer.map(|peer| peer.who.as_ref()), &method) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.0.call(request))
            }
            Err(refusal) => {
                let address = peer.and_then(|peer| peer.address).map(|address| address.to_string());
                tracing::warn!(address, call = method, reason = refusal.message(), "caller refused");
                Box::pin(async move { Ok(refusal.into_http()) })
            }
        }
    }
}

/// Who calls, when that is known for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller(Option<String>);

fn judge(who: Option<&Who>, method: &str) -> Result<Caller, Status> {
    match who {
        // A connection that was taken by something that does not tell whose it is.
        None => Err(Status::internal(
            "it is not known who calls; this is a fault of Rekeeper",
        )),
        Some(Who::Anyone) => Ok(Caller(None)),
        Some(Who::Unfit(unfit)) => Err(Status::permission_denied(unfit.to_string())),
        Some(Who::Bearer(identity)) => match identity.role {
            Role::Operator => Ok(Caller(Some(identity.to_string()))),
            Role::Viewer if OF_VIEWERS.contains(&method) => Ok(Caller(Some(identity.to_string()))),
            Role::Viewer => Err(Status::permission_denied(format!(
                "{} may look and not change anything; this takes a certificate of an operator (OU=rekeeper-operator)",
                identity.name
            ))),
            Role::Agent => Err(Status::permission_denied(format!(
                "the certificate of {} is an agent's, and agents give no orders; use one of a person \
                 (OU=rekeeper-operator or OU=rekeeper-viewer)",
                identity.name
            ))),
        },
    }
}

/// Who calls, for the record: name and role of the certificate; without TLS the name that the caller gives itself.
pub(super) fn caller<T>(request: &Request<T>) -> String {
    if let Some(Caller(Some(certified))) = request.extensions().get::<Caller>() {
        return certified.clone();
    }
    let named = request.metadata().get(CALLER).and_then(|value| value.to_str().ok());
    named.map_or_else(|| "unknown".to_owned(), |name| name.chars().take(128).collect())
}

#[cfg(test)]
mod tests {
    use rekeeper_tls::{Identity, Unfit};
    use tonic::Code;

    use super::*;

    const LOOKS: [&str; 5] = ["Hosts", "Refusals", "Status", "Events", "Report"];
    const ORDERS: [&str; 9] = [
        "Plan", "Start", "Pause", "Resume", "Retry", "Skip", "Abort", "DryRun", "Added",
    ];

    fn bearer(role: Role) -> Who {
        Who::Bearer(Identity {
            name: "anna".into(),
            role,
            hosts: vec!["ch-1".into()],
        })
    }

    #[test]
    fn viewers_look_operators_order_agents_and_strangers_do_neither() {
        for (who, looks, orders) in [
            (Some(bearer(Role::Operator)), true, true),
            (Some(bearer(Role::Viewer)), true, false),
            (Some(bearer(Role::Agent)), false, false),
            (Some(Who::Unfit(Unfit::Unreadable)), false, false),
            (Some(Who::Anyone), true, true),
            (None, false, false),
        ] {
            for (methods, may) in [(&LOOKS[..], looks), (&ORDERS[..], orders)] {
                for method in methods {
                    assert_eq!(judge(who.as_ref(), method).is_ok(), may, "{who:?} {method}");
                }
            }
        }
        let refused = judge(Some(&bearer(Role::Viewer)), "Start").unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("OU=rekeeper-operator"), "{refused}");
    }

    #[test]
    fn a_certificate_names_the_caller_whatever_the_header_says() {
        let mut request = Request::new(());
        request.metadata_mut().insert(CALLER, "eve@elsewhere".parse().unwrap());
        assert_eq!(caller(&request), "eve@elsewhere");
        request
            .extensions_mut()
            .insert(judge(Some(&bearer(Role::Operator)), "Start").unwrap());
        assert_eq!(caller(&request), "anna (operator)");
    }
}
