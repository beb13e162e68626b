//! The connection to the coordinator: its address, who calls, and one function for each call.

use std::net::IpAddr;
use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1;
use rekeeper_proto::v1::operator_client::OperatorClient;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::people::report::ReportView;
use rekeeper_shared::people::view::{HostView, MigrationLine, PlanView, RefusalView, StatusView};
use rekeeper_tls::{ClientFiles, Dialer};
use serde::de::DeserializeOwned;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

use crate::cli::Common;
use crate::failure::Failure;

/// What the files of TLS are called where people name them.
const TLS_FIELDS: [&str; 3] = ["--ca", "--cert", "--key"];
/// Name of the metadata that says who calls; with TLS the certificate does.
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
        let Target { url, tls } = Target::of(common).map_err(Failure::Usage)?;
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::Usage(format!("--coordinator {url:?} is no URL: {error}")))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = match tls {
            None => endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy(),
            // The dialer has limits of its own, and says what it waited for.
            Some(files) => endpoint.connect_with_connector_lazy(Dialer::new(files, TLS_FIELDS)),
        };
        let operator =
            OperatorClient::with_interceptor(channel, Caller(caller())).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { url, operator })
    }

    pub(crate) async fn hosts(&mut self) -> Result<Vec<HostView>, Failure> {
        let answer = self.operator.hosts(reading(v1::HostsRequest {})).await;
        self.document("a list of hosts", answer)
    }

    pub(crate) async fn refusals(&mut self) -> Result<Vec<RefusalView>, Failure> {
        let answer = self.operator.refusals(reading(v1::RefusalsRequest {})).await;
        self.document("a list of refusals", answer)
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

    pub(crate) async fn skip(&mut self, request: v1::SkipRequest) -> Result<String, Failure> {
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

/// What to call, and how.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    url: String,
    /// The files to speak TLS with; none: without.
    tls: Option<ClientFiles>,
}

impl Target {
    /// Judges the options. Without TLS only a loopback address is called, since nothing else would keep others out.
    fn of(common: &Common) -> Result<Self, String> {
        let given = common.coordinator.as_str();
        let uri: Uri = given
            .parse()
            .map_err(|error| format!("--coordinator {given:?} is no URL: {error}"))?;
        let Some(scheme @ ("http" | "https")) = uri.scheme_str() else {
            return Err(format!(
                "--coordinator {given:?} is no URL: it must begin with https://, or, on loopback, with http://"
            ));
        };
        let authority = uri
            .authority()
            .ok_or_else(|| format!("--coordinator {given:?} names no host"))?;
        if uri.path().len() > 1 || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(format!(
                "--coordinator {given:?}: only {scheme}://HOST:PORT is possible"
            ));
        }
        let host = authority.host();
        let tls = if scheme == "https" {
            Some(files(common)?)
        } else {
            check_plain(common, host)?;
            None
        };
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        let url = format!("{scheme}://{host}:{port}");
        Ok(Self { url, tls })
    }
}

fn check_plain(common: &Common, host: &str) -> Result<(), String> {
    let given = &common.coordinator;
    let files = [("--ca", &common.ca), ("--cert", &common.cert), ("--key", &common.key)];
    if let Some((flag, _)) = files.iter().find(|(_, file)| file.is_some()) {
        return Err(format!(
            "{flag} is for TLS, and --coordinator {given:?} is without: write https:// if the coordinator speaks TLS, leave \
             the files out if not"
        ));
    }
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = plain.eq_ignore_ascii_case("localhost") || plain.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback {
        return Ok(());
    }
    Err(format!(
        "--coordinator {given:?}: http is for loopback addresses only; use https:// with --ca, --cert and --key"
    ))
}

/// The files of TLS, read once, so that what is wrong with them is said as wrong usage. Without a certificate of its
/// own a caller is refused, but that is the coordinator's to say.
fn files(common: &Common) -> Result<ClientFiles, String> {
    let Some(ca) = &common.ca else {
        return Err(
            "--ca: missing; with https it names the certificate of the CA that signed the coordinator's".to_owned(),
        );
    };
    let own = match (&common.cert, &common.key) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        (Some(_), None) => return Err("--key: missing; --cert needs the key of the certificate".to_owned()),
        (None, Some(_)) => return Err("--cert: missing; --key needs the certificate that it is the key of".to_owned()),
    };
    let files = ClientFiles { ca: ca.into(), own };
    let mut problems = Vec::new();
    files.read(TLS_FIELDS, &mut problems);
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(problems.join("\n"))
    }
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
mod tests;
