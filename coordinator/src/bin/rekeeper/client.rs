//! The connection to the coordinator: its address, who calls, and one function for each call.

use std::net::IpAddr;
use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1;
use rekeeper_proto::v1::operator_client::OperatorClient;
use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::report::ReportView;
use rekeeper_shared::view::{HostView, MigrationLine, PlanView, StatusView};
use serde::de::DeserializeOwned;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

use crate::cli::Common;
use crate::failure::Failure;

/// Name of the metadata that says who calls.
const CALLER: &str = "rekeeper-caller";
const DEFAULT_PORT: u16 = 7443;
/// A peer that is frozen or cut off is found in twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For calls that only read what the coordinator knows already. A plan has no limit: agents look at their hosts.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is made, and made again, when a call needs it.
pub(crate) struct Client {
    url: String,
    operator: OperatorClient<InterceptedService<Channel, Caller>>,
}

#[derive(Clone)]
struct Caller(MetadataValue<Ascii>);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(CALLER, self.0.clone());
        Ok(request)
    }
}

impl Client {
    /// Judges the options; connects to nothing yet. Needs a runtime around it.
    pub(crate) fn new(common: &Common) -> Result<Self, Failure> {
        let url = address(common).map_err(Failure::Usage)?;
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::Usage(format!("--coordinator {url:?} is no URL: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let operator = OperatorClient::with_interceptor(endpoint.connect_lazy(), Caller(caller()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { url, operator })
    }

    pub(crate) async fn hosts(&mut self) -> Result<Vec<HostView>, Failure> {
        let answer = self.operator.hosts(reading(v1::HostsRequest {})).await;
        self.document("a list of hosts", answer)
    }

    pub(crate) async fn plan(&mut self, request: v1::PlanRequest) -> Result<PlanView, Failure> {
        let answer = self.operator.plan(request).await;
        self.document("a plan", answer)
    }

    pub(crate) async fn status(&mut self, name: &MigrationName) -> Result<StatusView, Failure> {
        let request = reading(v1::StatusRequest { name: name.to_string() });
        let answer = self.operator.status(request).await;
        self.document("a status", answer)
    }

    pub(crate) async fn migrations(&mut self) -> Result<Vec<MigrationLine>, Failure> {
        let answer = self
            .operator
            .status(reading(v1::StatusRequest { name: String::new() }))
            .await;
        self.document("a list of migrations", answer)
    }

    pub(crate) async fn start(&mut self, name: &MigrationName, until: &str) -> Result<String, Failure> {
        let request = v1::StartRequest {
            name: name.to_string(),
            until: until.to_owned(),
        };
        let answer = self.operator.start(request).await;
        self.notice(answer)
    }

    pub(crate) async fn pause(&mut self, name: &MigrationName) -> Result<String, Failure> {
        let answer = self
            .operator
            .pause(v1::MigrationRequest { name: name.to_string() })
            .await;
        self.notice(answer)
    }

    pub(crate) async fn resume(&mut self, name: &MigrationName) -> Result<String, Failure> {
        let answer = self
            .operator
            .resume(v1::MigrationRequest { name: name.to_string() })
            .await;
        self.notice(answer)
    }

    pub(crate) async fn abort(&mut self, name: &MigrationName) -> Result<String, Failure> {
        let answer = self
            .operator
            .abort(v1::MigrationRequest { name: name.to_string() })
            .await;
        self.notice(answer)
    }

    pub(crate) async fn skip(&mut self, name: &MigrationName, table: String) -> Result<String, Failure> {
        let request = v1::SkipRequest {
            name: name.to_string(),
            table,
        };
        let answer = self.operator.skip(request).await;
        self.notice(answer)
    }

    pub(crate) async fn retry(&mut self, request: v1::RetryRequest) -> Result<String, Failure> {
        let answer = self.operator.retry(request).await;
        self.notice(answer)
    }

    /// The report, which comes in pieces.
    pub(crate) async fn report(&mut self, name: &MigrationName) -> Result<ReportView, Failure> {
        let request = v1::MigrationRequest { name: name.to_string() };
        let answer = self.operator.report(request).await;
        let mut pieces = answer.map_err(|status| self.failed(status))?.into_inner();
        let mut report: Option<ReportView> = None;
        while let Some(piece) = pieces.message().await.map_err(|status| self.failed(status))? {
            let piece: ReportView = decode("a report", &piece)?;
            match &mut report {
                None => report = Some(piece),
                Some(report) => report.tables.extend(piece.tables),
            }
        }
        report.ok_or_else(|| self.failed(Status::data_loss("the coordinator sent no report")))
    }

    pub(crate) async fn events(
        &mut self,
        name: &MigrationName,
        after: u64,
        follow: bool,
    ) -> Result<Streaming<v1::View>, Failure> {
        let request = v1::EventsRequest {
            name: name.to_string(),
            after,
            follow,
        };
        let answer = self.operator.events(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(status))
    }

    /// The steps that `start` would order, host by host.
    pub(crate) async fn dry_run(&mut self, name: &MigrationName, until: &str) -> Result<Streaming<v1::View>, Failure> {
        let request = v1::StartRequest {
            name: name.to_string(),
            until: until.to_owned(),
        };
        let answer = self.operator.dry_run(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(status))
    }

    /// What a status means that a call, or a stream of one, ended with.
    pub(crate) fn failed(&self, status: Status) -> Failure {
        Failure::of_call(&self.url, status)
    }

    fn document<T: DeserializeOwned>(
        &self,
        what: &'static str,
        answer: Result<tonic::Response<v1::View>, Status>,
    ) -> Result<T, Failure> {
        decode(what, &answer.map_err(|status| self.failed(status))?.into_inner())
    }

    fn notice(&self, answer: Result<tonic::Response<v1::Accepted>, Status>) -> Result<String, Failure> {
        Ok(answer.map_err(|status| self.failed(status))?.into_inner().notice)
    }
}

/// Reads a document of the coordinator.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, view: &v1::View) -> Result<T, Failure> {
    serde_json::from_str(&view.json).map_err(|source| Failure::Document { what, source })
}

fn reading<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(READ_TIMEOUT);
    request
}

/// The URL to call: without TLS only a loopback address, since nothing else would keep others out.
fn address(common: &Common) -> Result<String, String> {
    let given = common.coordinator.as_str();
    let tls = [("--ca", &common.ca), ("--cert", &common.cert), ("--key", &common.key)];
    if let Some((flag, _)) = tls.iter().find(|(_, value)| value.is_some()) {
        return Err(format!(
            "{flag}: TLS is not in this release; use an http URL of a loopback address without it"
        ));
    }
    let uri: Uri = given
        .parse()
        .map_err(|error| format!("--coordinator {given:?} is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(format!(
                "--coordinator {given:?}: TLS is not in this release; only http on a loopback address is"
            ));
        }
        _ => return Err(format!("--coordinator {given:?} is no URL: it must begin with http://")),
    }
    let authority = uri
        .authority()
        .ok_or_else(|| format!("--coordinator {given:?} names no host"))?;
    if uri.path().len() > 1 || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(format!("--coordinator {given:?}: only http://HOST:PORT is possible"));
    }
    let host = authority.host();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = plain.eq_ignore_ascii_case("localhost") || plain.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        return Err(format!(
            "--coordinator {given:?}: http is for loopback addresses only; run rekeeper on the coordinator's host or \
             forward its port with ssh -L"
        ));
    }
    Ok(format!(
        "http://{host}:{}",
        authority.port_u16().unwrap_or(DEFAULT_PORT)
    ))
}

/// `user@host`, in the letters that a header can carry.
fn caller() -> MetadataValue<Ascii> {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.or_else(|| std::env::var("LOGNAME").ok().filter(|user| !user.is_empty()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok());
    let name = format!(
        "{}@{}",
        user.as_deref().unwrap_or("unknown"),
        host.as_deref().unwrap_or("unknown").trim()
    );
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect();
    MetadataValue::try_from(plain).unwrap_or_else(|_| MetadataValue::from_static("unknown@unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn with(url: &str) -> Common {
        Common {
            coordinator: url.to_owned(),
            ca: None,
            cert: None,
            key: None,
            output: Format::Table,
        }
    }

    #[test]
    fn only_loopback_is_called_without_tls() {
        for (given, called) in [
            ("http://127.0.0.1:7443", "http://127.0.0.1:7443"),
            ("http://localhost:1/", "http://localhost:1"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("http://127.0.0.2", "http://127.0.0.2:7443"),
        ] {
            assert_eq!(address(&with(given)).as_deref(), Ok(called));
        }
        for bad in [
            "http://10.0.0.1:7443",
            "http://coordinator:7443",
            "http://localhost.evil.example:1",
            "http://0.0.0.0:7443",
            "https://127.0.0.1:7443",
            "http://127.0.0.1@example.com:7443",
            "http://127.0.0.1:7443/x",
            "127.0.0.1:7443",
            "ftp://127.0.0.1",
            "",
        ] {
            assert!(address(&with(bad)).is_err(), "{bad}");
        }
        let tls = Common {
            key: Some("k".into()),
            ..with("http://127.0.0.1:7443")
        };
        assert!(address(&tls).is_err_and(|error| error.contains("TLS is not in this release")));
    }
}
