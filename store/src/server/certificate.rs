//! What a client's certificate says about its holder: the subject's common name and organisational units.
//!
//! rustls has verified the certificate by then (who signed it, when it ends, that the client has its key) but does not
//! tell the subject, so it is read here from the DER encoding. Only what leads to the subject is looked at (RFC 5280,
//! section 4.1); whatever is not as expected means that there is no subject, which is nobody's.

use crate::raft::network::MemberId;
use crate::service::access::Role;

/// OID 2.5.4.3, the common name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// OID 2.5.4.11, an organisational unit.
const UNIT: &[u8] = &[0x55, 0x04, 0x0b];

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
/// UTF8String, PrintableString and IA5String: all of them are UTF-8.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// Who a certificate belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name, empty if there is none or several.
    pub name: String,
    /// The roles that its organisational units name.
    pub roles: Vec<Role>,
}

impl Subject {
    /// Reads a certificate in DER.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let mut outer = Der(certificate).take(SEQUENCE)?;
        let mut body = outer.take(SEQUENCE)?;
        if body.peek() == Some(VERSION) {
            body.take(VERSION)?;
        }
        body.take(INTEGER)?;
        // The signature's algorithm, the issuer, the validity.
        for _ in 0..3 {
            body.take(SEQUENCE)?;
        }
        Self::of_name(body.take(SEQUENCE)?)
    }

    fn of_name(mut name: Der<'_>) -> Option<Self> {
        let mut names = Vec::new();
        let mut subject = Self::default();
        while name.peek().is_some() {
            let mut set = name.take(SET)?;
            while set.peek().is_some() {
                let mut attribute = set.take(SEQUENCE)?;
                let id = attribute.take(OBJECT_ID)?.0;
                let (tag, value) = attribute.next()?;
                let text = TEXTS
                    .contains(&tag)
                    .then(|| std::str::from_utf8(value).ok());
                let Some(text) = text.flatten() else { continue };
                match id {
                    COMMON_NAME => names.push(text),
                    UNIT => subject.roles.extend(Role::from_name(text)),
                    _ => {}
                }
            }
        }
        if let [only] = names[..] {
            only.clone_into(&mut subject.name);
        }
        Some(subject)
    }

    /// The member that this certificate is for: the role `member` and the common name `member-ID`.
    pub fn member(&self) -> Option<MemberId> {
        let id = self.name.strip_prefix("member-")?;
        // One way to write each number, so that no two names are one member's.
        let plain = id.starts_with(|c: char| ('1'..='9').contains(&c))
            && id.bytes().all(|byte| byte.is_ascii_digit());
        let id = plain.then(|| id.parse().ok()).flatten()?;
        self.roles.contains(&Role::Member).then_some(id)
    }

    /// True if one of its roles covers `needed`.
    pub fn may(&self, needed: Role) -> bool {
        self.roles.iter().any(|role| role.covers(needed))
    }

    /// Its roles for people.
    pub fn roles_text(&self) -> String {
        match &self.roles[..] {
            [] => "none".to_owned(),
            roles => roles
                .iter()
                .map(|role| role.name())
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

/// A reader of DER: one element after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk::<2>()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x84 => {
                let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                digits
                    .iter()
                    .fold(0, |sum, digit| sum << 8 | usize::from(*digit))
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    /// What is in the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Self> {
        let (found, content) = self.next()?;
        (found == tag).then_some(Self(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    fn certificate(fields: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in fields {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn name_and_role_are_read_from_the_subject() {
        let printable = DnValue::PrintableString("executor".try_into().unwrap());
        let der = certificate(&[
            (DnType::OrganizationName, utf8("admin")),
            (DnType::OrganizationalUnitName, printable),
            (DnType::CommonName, utf8("executor-a")),
        ]);
        let subject = Subject::of(&der).unwrap();
        assert_eq!(subject.name, "executor-a");
        // The organisation is not the unit.
        assert_eq!(subject.roles, [Role::Executor]);
        assert!(subject.may(Role::Reader) && !subject.may(Role::Admin));
        assert_eq!(subject.member(), None);
    }

    #[test]
    fn a_member_is_named_in_one_way() {
        let of = |name: &str, unit: &str| {
            let der = certificate(&[
                (DnType::CommonName, utf8(name)),
                (DnType::OrganizationalUnitName, utf8(unit)),
            ]);
            Subject::of(&der).unwrap().member()
        };
        assert_eq!(of("member-12", "member"), Some(12));
        for (name, unit) in [
            ("member-12", "admin"),
            ("member-", "member"),
            ("member-0", "member"),
            ("member-012", "member"),
            ("member-+1", "member"),
            ("member-99999999999999999999", "member"),
            ("member", "member"),
        ] {
            assert_eq!(of(name, unit), None, "{name} {unit}");
        }
    }

    #[test]
    fn a_certificate_without_a_known_unit_has_no_role() {
        let der = certificate(&[(DnType::CommonName, utf8("admin"))]);
        let subject = Subject::of(&der).unwrap();
        assert_eq!(
            (&*subject.name, subject.roles_text().as_str()),
            ("admin", "none")
        );
        assert!(!subject.may(Role::Reader));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Subject::of(&bytes);
        }

        #[test]
        fn no_damage_makes_the_reader_panic(at in 0_usize..400, to in any::<u8>(), cut in 0_usize..400) {
            let mut der = certificate(&[
                (DnType::CommonName, utf8("a")),
                (DnType::OrganizationalUnitName, utf8("reader")),
            ]);
            let at = at % der.len();
            der[at] = to;
            let _ = Subject::of(&der);
            der.truncate(cut % der.len());
            let _ = Subject::of(&der);
        }
    }
}
