//! What a certificate says about its bearer: name, role, hosts, dates.

use std::fmt;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// What the organizational units (OU) that mean something to Rekeeper begin with.
const ROLE_PREFIX: &str = "rekeeper-";

/// What its bearer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An agent of the hosts that the certificate names; gives no orders.
    Agent,
    /// A person or script that may look at everything and change nothing.
    Viewer,
    /// A person or script that may do everything.
    Operator,
}

impl Role {
    const ALL: [Self; 3] = [Self::Agent, Self::Viewer, Self::Operator];

    /// The organizational unit of the certificate's subject that gives this role.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Agent => "rekeeper-agent",
            Self::Viewer => "rekeeper-viewer",
            Self::Operator => "rekeeper-operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.unit().trim_start_matches(ROLE_PREFIX))
    }
}

/// What is read of a certificate. Its texts have no control characters, so that they may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The whole subject, for people.
    pub subject: String,
    /// Common name (CN).
    pub common_name: Option<String>,
    /// Organizational units (OU).
    pub units: Vec<String>,
    /// The DNS names among the subject alternative names.
    pub dns_names: Vec<String>,
    /// It is for callers: its extended key usage has `clientAuth`.
    pub is_for_callers: bool,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it is valid no more.
    pub not_after: SystemTime,
}

impl Facts {
    /// Reads a certificate; none when it is no X.509 certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let alternative = certificate.subject_alternative_name().ok()?;
        let names = alternative.map_or(&[][..], |extension| &extension.value.general_names);
        let usage = certificate.extended_key_usage().ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: plain(&subject.to_string()),
            common_name: subject.iter_common_name().find_map(text),
            units: subject.iter_organizational_unit().filter_map(exact).collect(),
            dns_names: names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(exactly(name)),
                    _ => None,
                })
                .collect(),
            is_for_callers: usage.is_some_and(|usage| usage.value.client_auth),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Why it is not valid at this time, if so.
    #[must_use]
    pub fn out_of_date(&self, now: SystemTime) -> Option<String> {
        if now > self.not_after {
            Some(format!("expired on {}", shown(self.not_after)))
        } else if now < self.not_before {
            Some(format!("is not valid before {}", shown(self.not_before)))
        } else {
            None
        }
    }

    /// From when to when it is valid.
    #[must_use]
    pub fn dates(&self) -> String {
        format!("valid from {} to {}", shown(self.not_before), shown(self.not_after))
    }
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let text = plain(attribute.as_str().ok()?);
    (!text.is_empty()).then_some(text)
}

/// A text that means something to the letter: blanks around it are part of it.
fn exact(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    Some(exactly(attribute.as_str().ok()?))
}

/// Made fit for a log as well, and never equal to another text by that.
fn exactly(text: &str) -> String {
    let shown = plain(text);
    if shown == text {
        shown
    } else {
        format!("{shown:?} (not as it stands here)")
    }
}

/// What somebody else wrote, made fit for one line of a log or a terminal.
fn plain(text: &str) -> String {
    let shown = text.trim().chars().take(128);
    shown.map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

pub(super) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Who a certificate makes of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its common name; of an agent that has none, its first host.
    pub name: String,
    /// The one role that it gives.
    pub role: Role,
    /// The hosts that it names: whom an agent may speak for.
    pub hosts: Vec<String>,
}

/// Why a certificate that is signed by the right CA is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum Unfit {
    /// It cannot be read.
    #[error("the certificate cannot be read; make a new one as docs/tls.md shows")]
    Unreadable,
    /// It gives no role.
    #[error(
        "the certificate of {subject} gives no role: its subject needs OU=rekeeper-operator or OU=rekeeper-viewer for \
         a person, OU=rekeeper-agent for an agent; make a new one as docs/tls.md shows"
    )]
    NoRole { subject: String },
    /// It gives more than one, or one that there is not.
    #[error(
        "the certificate of {subject} gives {units}: it has to give exactly one role, of rekeeper-operator, \
         rekeeper-viewer and rekeeper-agent; make a new one as docs/tls.md shows"
    )]
    Roles {
        subject: String,
        /// The organizational units (OU) that its subject has.
        units: String,
    },
    /// Nobody could tell later who ordered something.
    #[error(
        "the certificate of {subject} has no common name (CN), by which orders are put on record; make a new one as \
         docs/tls.md shows"
    )]
    NoName { subject: String },
    /// It may be used for anything, or for something else.
    #[error(
        "the certificate of {subject} is not one of callers: it needs extendedKeyUsage=clientAuth; make a new one as \
         docs/tls.md shows"
    )]
    NoPurpose { subject: String },
    /// An agent of no host.
    #[error(
        "the agent's certificate of {subject} names no host: it needs the host's name, as in plans, as a DNS name \
         among its subject alternative names; make a new one as docs/tls.md shows"
    )]
    NoHost { subject: String },
}

impl Identity {
    /// Reads who a certificate is for. That it is genuine was checked before.
    ///
    /// # Errors
    /// [`Unfit`] when it gives not exactly one role, or lacks what the role needs.
    pub fn of(der: &[u8]) -> Result<Self, Unfit> {
        Facts::of(der).ok_or(Unfit::Unreadable)?.try_into()
    }
}

impl TryFrom<Facts> for Identity {
    type Error = Unfit;

    fn try_from(facts: Facts) -> Result<Self, Unfit> {
        let subject = if facts.subject.is_empty() {
            "an empty subject".to_owned()
        } else {
            facts.subject
        };
        if !facts.is_for_callers {
            return Err(Unfit::NoPurpose { subject });
        }
        let mut units = facts.units;
        // Also one that only looks like a role.
        units.retain(|unit| unit.contains(ROLE_PREFIX));
        let role = match units.as_slice() {
            [] => return Err(Unfit::NoRole { subject }),
            [unit] => Role::ALL.into_iter().find(|role| role.unit() == unit),
            _ => None,
        };
        let Some(role) = role else {
            let units = units.join(" and ");
            return Err(Unfit::Roles { subject, units });
        };
        let name = match role {
            Role::Agent if facts.dns_names.is_empty() => return Err(Unfit::NoHost { subject }),
            Role::Agent => facts.common_name.or_else(|| facts.dns_names.first().cloned()),
            Role::Viewer | Role::Operator => facts.common_name,
        };
        Ok(Self {
            name: name.ok_or(Unfit::NoName { subject })?,
            role,
            hosts: facts.dns_names,
        })
    }
}

impl fmt::Display for Identity {
    /// As it stands in records: `anna (operator)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}
