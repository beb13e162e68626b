//! A CA of a test's own, and certificates that it signs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};

/// A CA with a folder for what it signs.
pub(super) struct Authority {
    pub(super) folder: tempfile::TempDir,
    pub(super) ca: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    signed: AtomicUsize,
}

/// What to sign.
pub(super) struct Make {
    pub(super) common_name: &'static str,
    unit: &'static str,
    names: Vec<String>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    until: i32,
}

impl Make {
    pub(super) fn server() -> Self {
        Self {
            common_name: "coordinator",
            unit: "servers",
            names: vec!["localhost".into(), "127.0.0.1".into()],
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
            until: 2099,
        }
    }

    pub(super) fn person(common_name: &'static str, unit: &'static str) -> Self {
        Self {
            common_name,
            unit,
            names: Vec::new(),
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            until: 2099,
        }
    }

    pub(super) fn agent(host: &'static str) -> Self {
        Self {
            names: vec![host.into()],
            ..Self::person(host, "rekeeper-agent")
        }
    }

    pub(super) fn called(self, name: &str) -> Self {
        let names = vec![name.to_owned()];
        Self { names, ..self }
    }

    pub(super) fn expired(self) -> Self {
        Self { until: 2021, ..self }
    }

    pub(super) fn purpose(self, purpose: ExtendedKeyUsagePurpose) -> Self {
        let purposes = vec![purpose];
        Self { purposes, ..self }
    }

    /// Without a purpose at all.
    pub(super) fn for_anything(self) -> Self {
        let purposes = Vec::new();
        Self { purposes, ..self }
    }
}

impl Authority {
    pub(super) fn new() -> Self {
        Self::named("CA")
    }

    pub(super) fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            folder,
            ca,
            issuer: Issuer::new(params, key),
            signed: AtomicUsize::new(0),
        }
    }

    /// Signs a certificate and writes it and its key.
    pub(super) fn write(&self, make: Make) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(make.names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !make.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, make.common_name);
        }
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, make.unit);
        params.extended_key_usages = make.purposes;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(make.until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let number = self.signed.fetch_add(1, Ordering::Relaxed);
        let file = |end: &str| self.folder.path().join(format!("{number}.{end}"));
        let (cert_file, key_file) = (file("crt"), file("key"));
        std::fs::write(&cert_file, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        (cert_file, key_file)
    }
}
