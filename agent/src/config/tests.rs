//! What `agent.yaml` may say, and what is said of one that cannot be used.

use super::*;
use rekeeper_shared::tools::config::{BadConfig, load};

fn loaded(text: &str) -> Result<Config, BadConfig> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.xml"), "<clickhouse/>").unwrap();
    std::fs::write(folder.path().join("password"), "secret\n").unwrap();
    // A password that others can read is refused.
    let of_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(folder.path().join("password"), of_owner).unwrap();
    std::fs::write(folder.path().join("hook"), "").unwrap();
    std::fs::write(folder.path().join("agent.yaml"), text).unwrap();
    load::<RawConfig>(&folder.path().join("agent.yaml"))
}

const SMALLEST: &str = "
coordinator: http://127.0.0.1:7443
host: ch-1
state_dir: state
insecure: true
clickhouse: {url: 'http://127.0.0.1:8123', config: config.xml}
";

#[test]
fn the_smallest_file_gets_the_defaults() {
    let config = loaded(SMALLEST).unwrap();
    assert_eq!(config.clickhouse.user, "default");
    assert_eq!(config.clickhouse.password, None);
    assert_eq!((config.parallel.detach.get(), config.parallel.restore.get()), (8, 16));
    assert!(config.state_dir.is_absolute() && config.state_dir.ends_with("state"));
    assert_eq!((config.restart, config.before_restart), (None, None));
    assert_eq!(config.znodes_export_limit_bytes.get(), 1_073_741_824);
    assert!(loaded(&SMALLEST.replace("host: ch-1\n", "")).is_ok());
}

#[test]
fn a_whole_file_is_read() {
    let config = loaded(&format!(
        "{}restart: {{command: [systemctl, restart, x]}}\nhooks: {{before_restart: [./hook, a], timeout: 1m}}\n\
         parallel: {{restore: 3}}\nznodes_export_limit_bytes: 5000\n",
        SMALLEST.replace(
            "config: config.xml",
            "user: u, password_file: password, config: config.xml"
        )
    ))
    .unwrap();
    assert_eq!(config.clickhouse.password.as_deref(), Some("secret"));
    let restart = config.restart.unwrap();
    assert_eq!(
        (restart.command[0].as_str(), restart.timeout),
        ("systemctl", restart_timeout())
    );
    let hook = config.before_restart.unwrap();
    assert!(Path::new(&hook.command[0]).is_absolute());
    assert_eq!((hook.command[1].as_str(), hook.timeout), ("a", Duration::from_secs(60)));
    assert_eq!((config.parallel.detach.get(), config.parallel.restore.get()), (8, 3));
    assert_eq!(config.znodes_export_limit_bytes.get(), 5000);
}

#[test]
fn all_problems_are_said_at_once() {
    let bad = loaded(
        "
coordinator: https://coordinator.example
host: 'a b'
state_dir: config.xml
clickhouse: {url: 'https://127.0.0.1:8443', ca: none.crt, password_file: none, config: none.xml}
restart: {command: []}
hooks: {before_restart: [./none], timeout: 0s}
",
    )
    .unwrap_err();
    let fields = [
        "tls:",
        "coordinator:",
        "host:",
        "state_dir:",
        "clickhouse.ca:",
        "clickhouse.password_file:",
        "clickhouse.config:",
        "restart.command:",
        "hooks.timeout:",
        "hooks.before_restart:",
    ];
    for field in fields {
        // With its line, unless it stands on none.
        let after_line = |p: &String| {
            p.split_once(": ")
                .filter(|(line, _)| line.starts_with("line "))
                .map_or(p.clone(), |(_, rest)| rest.into())
        };
        assert!(
            bad.problems.iter().any(|p| after_line(p).starts_with(field)),
            "{field} {bad}"
        );
    }
    assert_eq!(bad.problems.len(), fields.len(), "{bad}");
    assert!(
        bad.problems.iter().any(|p| p.starts_with("line 5: clickhouse.ca:")),
        "{bad}"
    );
}

#[test]
fn a_ca_goes_with_https_and_nothing_else() {
    for (url, ca, says) in [
        (
            "http://anna:geheim@127.0.0.1:8123",
            "",
            "clickhouse.url: it is scheme, host and port",
        ),
        (
            "http://127.0.0.1:8123/?user=anna&password=geheim",
            "",
            "clickhouse.url: it is scheme, host and port",
        ),
        ("anna:geheim@ch", "", "clickhouse.url: it is scheme, host and port"),
        (
            "https://ch:8443",
            "",
            "clickhouse.url: \"https://ch:8443\" needs clickhouse.ca",
        ),
        (
            "http://ch:8123",
            "ca: config.xml, ",
            "clickhouse.ca: it goes with an https:// URL",
        ),
        ("https://ch:8443", "ca: config.xml, ", "has no certificate in PEM form"),
        ("ch:8123", "", "is no URL of a server"),
        ("tcp://ch:9000", "", "is no URL of a server"),
    ] {
        let text = SMALLEST.replace("url: 'http://127.0.0.1:8123',", &format!("url: '{url}', {ca}"));
        let bad = loaded(&text).unwrap_err();
        assert!(bad.to_string().contains(says), "{bad}");
        assert_eq!(bad.problems.len(), 1, "{bad}");
    }
}

#[test]
fn without_tls_only_this_machine_is_called() {
    for (host, may) in [
        ("127.0.0.1", true),
        ("localhost", true),
        ("[::1]", true),
        ("10.0.0.1", false),
        ("0.0.0.0", false),
        ("localhost.example", false),
    ] {
        let read = loaded(&SMALLEST.replace("127.0.0.1:7443", &format!("{host}:7443")));
        assert_eq!(read.is_ok(), may, "{host} {read:?}");
    }
}

#[test]
fn unknown_fields_are_refused() {
    assert!(loaded(&SMALLEST.replace("insecure: true", "tls: {client_ca: ca.crt}")).is_err());
    assert!(loaded(&format!("{SMALLEST}surprise: 1\n")).is_err());
    assert!(loaded(&format!("{SMALLEST}parallel: {{detach: 0}}\n")).is_err());
    for limit in ["0", "-1", "1GiB"] {
        let bad = loaded(&format!("{SMALLEST}znodes_export_limit_bytes: {limit}\n")).unwrap_err();
        assert!(bad.to_string().contains("znodes_export_limit_bytes"), "{bad}");
    }
}

#[test]
fn one_typo_is_one_problem() {
    for (right, typo) in [
        ("clickhouse:", "clickhous:"),
        ("state_dir:", "statedir:"),
        ("url:", "uri:"),
        ("coordinator:", "coordnator:"),
        ("insecure: true", "insecur: true"),
        ("insecure: true", "tsl: {ca: x, cert: y, key: z}"),
    ] {
        let on_lines = SMALLEST.replace(
            "clickhouse: {url: 'http://127.0.0.1:8123', config: config.xml}",
            "clickhouse:\n  url: http://127.0.0.1:8123\n  user: u\n  config: config.xml",
        );
        for text in [SMALLEST.to_owned(), on_lines] {
            let bad = loaded(&text.replace(right, typo)).unwrap_err();
            assert_eq!(bad.problems.len(), 1, "{bad}");
            let line = 1 + text.lines().position(|line| line.contains(right)).unwrap();
            let (name, _) = typo.split_once(':').unwrap();
            let says = format!("line {line}: ");
            assert!(
                bad.problems[0].starts_with(&says) && bad.problems[0].contains(name),
                "{bad}"
            );
        }
    }
    // What else is wrong is told beside it.
    let text = SMALLEST
        .replace("host: ch-1", "host: 'a b'")
        .replace("clickhouse:", "clickhous:");
    let bad = loaded(&text).unwrap_err();
    assert_eq!(bad.problems.len(), 2, "{bad}");
    // A name that looks like a number is one.
    assert_eq!(loaded(&SMALLEST.replace("ch-1", "0755")).unwrap().host.as_str(), "0755");
}

#[test]
fn the_folder_above_the_state_dir_has_to_be_there() {
    let bad = loaded(&SMALLEST.replace("state_dir: state", "state_dir: nope/deep/state")).unwrap_err();
    assert_eq!(bad.problems.len(), 1, "{bad}");
    assert!(bad.problems[0].starts_with("line 4: state_dir: ") && bad.problems[0].contains("nope/deep is not there"));
}
