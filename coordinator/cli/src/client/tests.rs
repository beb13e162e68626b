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

fn called(common: &Common) -> Result<String, String> {
    Target::of(common).map(|target| target.url)
}

#[test]
fn only_loopback_is_called_without_tls() {
    for (given, url) in [
        ("http://127.0.0.1:7443", "http://127.0.0.1:7443"),
        ("http://localhost:1/", "http://localhost:1"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("http://127.0.0.2", "http://127.0.0.2:7443"),
    ] {
        assert_eq!(called(&with(given)).as_deref(), Ok(url));
    }
    for bad in [
        "http://10.0.0.1:7443",
        "http://coordinator:7443",
        "http://localhost.evil.example:1",
        "http://0.0.0.0:7443",
        "http://127.0.0.1@example.com:7443",
        "http://127.0.0.1:7443/x",
        "127.0.0.1:7443",
        "ftp://127.0.0.1",
        "",
    ] {
        assert!(called(&with(bad)).is_err(), "{bad}");
    }
}

#[test]
fn tls_takes_https_and_files_and_says_which_is_missing() {
    let https = with("https://coordinator:7443");
    let key = Some("/none/own.key".to_owned());
    let ca = Some("/none/ca.crt".to_owned());
    for (common, words) in [
        (https.clone(), "--ca: missing"),
        (
            Common {
                ca: ca.clone(),
                ..https.clone()
            },
            "--ca: /none/ca.crt cannot be read",
        ),
        (
            Common {
                ca: ca.clone(),
                key: key.clone(),
                ..https.clone()
            },
            "--cert: missing",
        ),
        (
            Common {
                ca,
                cert: key.clone(),
                ..https
            },
            "--key: missing",
        ),
        (
            Common {
                key,
                ..with("http://127.0.0.1:7443")
            },
            "--key is for TLS",
        ),
    ] {
        let error = called(&common).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
