//! What we offer in a handshake: the words of OpenSSL in the settings, and what rustls has for them.
//!
//! Pure: text in, lists out. PgBouncer gives client_tls_protocols, client_tls_ciphers and their kin to OpenSSL; here
//! TLS 1.2 and 1.3 are spoken, with ECDHE and AEAD ciphers. A value is narrowed to that and never widened: what is left
//! out is told by name, and where nothing is left the value is refused. OpenSSL's notation is described in the manual
//! page openssl-ciphers(1): words joined by `+` mean what has all of them; `!` bans, `-` removes, `+` in front moves to
//! the end, `@` is a command. A word that nobody knows is told by name; after `!` and `-` it is refused where it may
//! mean what is offered here.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// The settings of one side, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// `client_tls` or `server_tls`, for what is said of a value.
    pub(super) prefix: &'static str,
    pub(super) protocols: String,
    pub(super) ciphers: String,
    pub(super) ciphers13: Option<String>,
    /// Clients' only; empty for servers.
    pub(super) ecdhcurve: String,
    /// Clients' only; empty for servers.
    pub(super) dheparams: String,
}

/// What is offered, each list the best first.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// May be empty, where only versions were asked for that are too old to be spoken.
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) groups: Vec<&'static dyn SupportedKxGroup>,
    /// What of the settings is left out, for the log.
    pub(super) notices: Vec<String>,
}

impl Words {
    /// Reads them.
    ///
    /// # Errors
    /// The setting, its value and what is wrong, in PgBouncer's words where it has them.
    pub(super) fn read(&self) -> Result<Offer, String> {
        let mut notices = Vec::new();
        let versions = self.versions(&mut notices)?;
        let mut suites = self.suites13(&versions, &mut notices)?;
        suites.extend(self.suites12(&versions, &mut notices)?);
        let groups = self.groups()?;
        self.dheparams(&mut notices)?;
        Ok(Offer { versions, suites, groups, notices })
    }

    fn versions(&self, notices: &mut Vec<String>) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let (prefix, text) = (self.prefix, &self.protocols);
        let bits = if text.is_empty() { Some(SECURE) } else { protocols(text) };
        let bits = bits.filter(|bits| *bits != 0).ok_or_else(|| {
            format!(
                "invalid {prefix}_protocols: {text}: expected tlsv1.0 to tlsv1.3, all or secure, with commas between"
            )
        })?;
        let mut versions = Vec::new();
        if bits & V1_3 != 0 {
            versions.push(&TLS13);
        }
        if bits & V1_2 != 0 {
            versions.push(&TLS12);
        }
        if versions.is_empty() {
            notices.push(format!(
                "{prefix}_protocols: {text}: these versions are too old to be spoken here, every handshake will fail; \
                 add tlsv1.2 or tlsv1.3"
            ));
        } else if bits & !SECURE != 0 {
            notices.push(format!("{prefix}_protocols: {text}: TLS 1.0 and 1.1 are not spoken here"));
        }
        Ok(versions)
    }

    fn suites13(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        notices: &mut Vec<String>,
    ) -> Result<Vec<SupportedCipherSuite>, String> {
        let all = || SUITES.iter().filter(|known| known.is_13()).map(|known| known.suite).collect();
        let prefix = self.prefix.trim_end_matches("_tls");
        let text = match &self.ciphers13 {
            Some(text) if !text.is_empty() && versions.contains(&&TLS13) => text,
            _ => return Ok(all()),
        };
        let refused = |name: &str| {
            format!(
                "{prefix}_tls13_ciphers: {text}: failed to set the TLSv1.3 cipher suites: {name} is not one of them"
            )
        };
        let mut suites = Vec::new();
        for name in text.split(':').filter(|name| !name.is_empty()) {
            match SUITES.iter().find(|known| known.is_13() && known.name == name) {
                Some(known) if !suites.contains(&known.suite) => suites.push(known.suite),
                Some(_) => {}
                None if name.starts_with("TLS_AES_128_CCM") => {
                    notices.push(format!("{prefix}_tls13_ciphers: {name} is not offered here"));
                }
                None => return Err(refused(name)),
            }
        }
        if suites.is_empty() { Err(refused(text)) } else { Ok(suites) }
    }

    fn suites12(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        notices: &mut Vec<String>,
    ) -> Result<Vec<SupportedCipherSuite>, String> {
        let (prefix, text) = (self.prefix, &self.ciphers);
        if !versions.contains(&&TLS12) {
            return Ok(Vec::new());
        }
        let read = ciphers(text).map_err(|fault| format!("invalid {prefix}_ciphers: {text}: {fault}"))?;
        if read.list.is_empty() {
            let unknown = match &read.unknown[..] {
                [] => String::new(),
                rules => format!(", and unknown is {}", rules.join(", ")),
            };
            let names: Vec<&str> = suites_of_12().map(|known| known.name).collect();
            return Err(format!(
                "invalid {prefix}_ciphers: {text}: none of them is offered here{unknown}; of TLS 1.2 there are {}",
                names.join(":")
            ));
        }
        for (says, rules) in [
            ("not offered here", read.absent),
            ("passed over, being no words for ciphers of TLS 1.2", read.unknown),
            ("kept as to the ciphers of TLS 1.2, not as to keys and curves", read.narrower),
        ] {
            if !rules.is_empty() {
                notices.push(format!("{prefix}_ciphers: {says}: {}", rules.join(", ")));
            }
        }
        Ok(read.list.into_iter().map(|known| known.suite).collect())
    }

    fn groups(&self) -> Result<Vec<&'static dyn SupportedKxGroup>, String> {
        let text = &self.ecdhcurve;
        if text.is_empty() || ["auto", "none"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Ok(GROUPS.iter().map(|(_, group)| *group).collect());
        }
        let named = |name: &str| {
            let known = GROUPS.iter().find(|(names, _)| names.iter().any(|known| known.eq_ignore_ascii_case(name)));
            known.map(|(_, group)| *group).ok_or_else(|| {
                format!("invalid {}_ecdhcurve: {name}: offered are auto, X25519, prime256v1 and secp384r1", self.prefix)
            })
        };
        text.split(':').map(named).collect()
    }

    fn dheparams(&self, notices: &mut Vec<String>) -> Result<(), String> {
        match self.dheparams.to_ascii_lowercase().as_str() {
            "" | "auto" | "none" => Ok(()),
            "legacy" => {
                let prefix = self.prefix;
                notices.push(format!("{prefix}_dheparams: legacy has no effect: DHE is not offered, ECDHE is"));
                Ok(())
            }
            _ => Err(format!("invalid {}_dheparams: {}: expected auto, none or legacy", self.prefix, self.dheparams)),
        }
    }
}

/// OpenSSL's name of a cipher suite.
pub(super) fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    SUITES.iter().find(|known| known.suite == suite).map_or("-", |known| known.name)
}

/// OpenSSL's short name of a key exchange group.
pub(super) fn group_name(group: &dyn SupportedKxGroup) -> &'static str {
    GROUPS.iter().find(|(_, known)| known.name() == group.name()).map_or("-", |(names, _)| names[0])
}

const V1_0: u8 = 1;
const V1_1: u8 = 2;
const V1_2: u8 = 4;
const V1_3: u8 = 8;
const SECURE: u8 = V1_2 | V1_3;
const ALL: u8 = V1_0 | V1_1 | SECURE;

/// The versions a list names; `!` takes one away, from all of them where nothing stands before it.
pub(super) fn protocols(text: &str) -> Option<u8> {
    let mut bits = 0;
    for word in text.split([',', ':']) {
        let word = word.trim_start_matches([' ', '\t']).trim_end();
        let (negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
        let named = match word.to_ascii_lowercase().as_str() {
            "all" | "tlsv1" => ALL,
            "default" | "secure" => SECURE,
            "tlsv1.0" => V1_0,
            "tlsv1.1" => V1_1,
            "tlsv1.2" => V1_2,
            "tlsv1.3" => V1_3,
            _ => return None,
        };
        if negated {
            bits = if bits == 0 { ALL } else { bits } & !named;
        } else {
            bits |= named;
        }
    }
    Some(bits)
}

/// One suite, its OpenSSL name, and the words of a cipher string that mean it and others.
struct Known {
    name: &'static str,
    words: &'static [&'static str],
    suite: SupportedCipherSuite,
}

impl Known {
    fn is_13(&self) -> bool {
        self.words.is_empty()
    }

    fn is_meant(&self, word: &str) -> bool {
        let everyone = ["ALL", "HIGH", "TLSv1.2", "ECDH", "ECDHE", "EECDH", "kECDHE", "kEECDH"];
        word == self.name || everyone.contains(&word) || self.words.contains(&word)
    }

    /// Whether words joined by `+` mean this suite; none where that hangs on a word that nobody knows.
    fn is_meant_by(&self, words: &str) -> Option<bool> {
        let mut meant = Some(true);
        for word in words.split('+').filter(|word| !self.is_meant(word)) {
            if is_known(word) || SUITES.iter().any(|known| known.is_13() && known.name == word) {
                return Some(false);
            }
            meant = None;
        }
        meant
    }
}

fn suites_of_12() -> impl Iterator<Item = &'static Known> {
    SUITES.iter().filter(|known| !known.is_13())
}

/// Whether a word of a cipher string is OpenSSL's, be it for suites that are offered here or for others.
fn is_known(word: &str) -> bool {
    suites_of_12().any(|known| known.is_meant(word)) || is_among(word, ELSEWHERE) || is_suite_elsewhere(word)
}

fn is_among(word: &str, list: &str) -> bool {
    list.split(' ').any(|known| known.eq_ignore_ascii_case(word))
}

/// Whether a word is made like the name of a suite, and of one that cannot be offered here.
fn is_suite_elsewhere(word: &str) -> bool {
    let pieces: Vec<&str> = word.split(['-', '_']).collect();
    let has = |list: &str| pieces.iter().any(|piece| is_among(piece, list));
    let foreign = has(FOREIGN_PIECES)
        || word.starts_with("TLS_RSA_WITH_")
        || is_among(word, "AES128-GCM-SHA256 AES256-GCM-SHA384")
        || !has("GCM CHACHA20 POLY1305") && pieces.last().is_some_and(|last| is_among(last, LAST_PIECES));
    let known = |piece: &&str| [PIECES, FOREIGN_PIECES, LAST_PIECES].iter().any(|list| is_among(piece, list));
    pieces.len() > 1 && foreign && pieces.iter().all(known)
}

/// OpenSSL's words, of today and of old, for suites of which none is offered here. In whatever case, none of them is
/// a word for others.
const ELSEWHERE: &str = "COMPLEMENTOFALL COMPLEMENTOFDEFAULT MEDIUM LOW EXP EXPORT EXPORT40 EXPORT56 SSLv2 SSLv3 TLSv1 \
    TLSv1.0 eNULL NULL aNULL kRSA RSA kDHE kEDH DHE EDH DH kDH kDHr kDHd aDH ADH AECDH aECDH aDSS DSS PSK kPSK kRSAPSK \
    kDHEPSK kECDHEPSK aPSK SRP kSRP aSRP KRB5 kKRB5 aKRB5 kGOST kGOST18 aGOST aGOST01 aGOST12 GOST GOST89 GOST94 \
    GOST89MAC GOST12 AESCCM AESCCM8 CBC CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 ARIAGCM SEED IDEA RC2 \
    RC4 DES 3DES MD5 SHA SHA1 SHA256 SHA384";

/// Of what the names of suites are made that are offered here, and of others.
const PIECES: &str = "TLS SSL WITH ECDHE RSA ECDSA AES AES128 AES256 128 256 GCM CBC CHACHA20 POLY1305";

/// Of what only names of others are made.
const FOREIGN_PIECES: &str = "DH DHE EDH ADH ECDH AECDH anon DSS PSK SRP KRB5 EXP EXP1024 EXPORT NULL CAMELLIA \
    CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 SEED IDEA RC2 RC4 DES 3DES EDE CBC3 40 56 IANA LEGACY GOST2001 \
    GOST2012";

/// How names of others end, where nothing in them is offered here.
const LAST_PIECES: &str = "SHA SHA256 SHA384 MD5 CCM CCM8 8 GOST12 GOST89 GOST94 GOST8912";

/// In the order in which they are preferred.
static SUITES: &[Known] = &[
    Known { name: "TLS_AES_256_GCM_SHA384", words: &[], suite: cipher_suite::TLS13_AES_256_GCM_SHA384 },
    Known { name: "TLS_AES_128_GCM_SHA256", words: &[], suite: cipher_suite::TLS13_AES_128_GCM_SHA256 },
    Known { name: "TLS_CHACHA20_POLY1305_SHA256", words: &[], suite: cipher_suite::TLS13_CHACHA20_POLY1305_SHA256 },
    Known {
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        words: &["ECDSA", "aECDSA", "AES", "AES256", "AESGCM", "FIPS", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    },
    Known {
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        words: &["ECDSA", "aECDSA", "AES", "AES128", "AESGCM", "FIPS", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    },
    Known {
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        words: &["ECDSA", "aECDSA", "CHACHA20", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"],
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    },
    Known {
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        words: &["aRSA", "AES", "AES256", "AESGCM", "FIPS", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    },
    Known {
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        words: &["aRSA", "AES", "AES128", "AESGCM", "FIPS", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    },
    Known {
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        words: &["aRSA", "CHACHA20", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    },
];

/// OpenSSL's names of the groups, the one it prints first.
static GROUPS: &[(&[&str], &dyn SupportedKxGroup)] = &[
    (&["X25519"], kx_group::X25519),
    (&["prime256v1", "secp256r1", "P-256"], kx_group::SECP256R1),
    (&["secp384r1", "P-384"], kx_group::SECP384R1),
];

/// What a cipher string says of TLS 1.2.
#[derive(Default)]
struct Reading<'a> {
    list: Vec<&'static Known>,
    /// Rules that mean only suites that are not offered here.
    absent: Vec<&'a str>,
    /// Rules with a word that is not OpenSSL's.
    unknown: Vec<&'a str>,
    /// Rules that ask of keys and curves what is not kept here.
    narrower: Vec<&'a str>,
}

/// Reads a cipher string.
///
/// # Errors
/// A rule that might remove what would be offered, or an unknown command.
fn ciphers(text: &str) -> Result<Reading<'_>, String> {
    let mut left: Vec<&Known> = suites_of_12().collect();
    let mut read = Reading::default();
    if ["", "default", "secure", "normal", "fast"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        read.list = left;
        return Ok(read);
    }
    let rules = text.split([':', ',', ' ', ';']).flat_map(|piece| {
        let (rule, command) = piece.split_at(piece.find('@').unwrap_or(piece.len()));
        [rule, command]
    });
    for (at, rule) in rules.filter(|rule| !rule.is_empty()).enumerate() {
        let (deed, words) = match rule.split_at_checked(1) {
            Some((deed @ ("!" | "-" | "+"), words)) => (deed, words),
            _ => ("", rule),
        };
        let meant = |known: &Known| known.is_meant_by(words) == Some(true);
        match (deed, rule) {
            ("", "DEFAULT") if at == 0 => read.list.clone_from(&left),
            ("", "SUITEB128" | "SUITEB128ONLY" | "SUITEB128C2" | "SUITEB192") if at == 0 => {
                let aes128 = rule.starts_with("SUITEB128") && rule != "SUITEB128C2";
                let aes256 = rule != "SUITEB128ONLY";
                left.retain(|known| {
                    aes128 && known.name == "ECDHE-ECDSA-AES128-GCM-SHA256"
                        || aes256 && known.name == "ECDHE-ECDSA-AES256-GCM-SHA384"
                });
                read.list.clone_from(&left);
                read.narrower.push(rule);
            }
            ("", "@STRENGTH") => read.list.sort_by_key(|known| known.is_meant("AES128")),
            // What keys and curves these levels ask for is the least that is taken here.
            ("", "@SECLEVEL=0" | "@SECLEVEL=1" | "@SECLEVEL=2") => {}
            ("", "@SECLEVEL=3") => read.narrower.push(rule),
            ("", command) if command.starts_with('@') => {
                return Err(format!("{command} is not known here; there are @STRENGTH and @SECLEVEL=0 to @SECLEVEL=3"));
            }
            ("!" | "-", _) if left.iter().any(|known| known.is_meant_by(words).is_none()) => {
                return Err(format!(
                    "{rule} is not known here and may mean ciphers that would be offered; take it out, or name these"
                ));
            }
            ("", _) if words.split('+').all(is_known) => {
                if !suites_of_12().any(meant) {
                    read.absent.push(rule);
                }
                let new =
                    left.iter().filter(|known| meant(known) && !read.list.iter().any(|other| other.name == known.name));
                let new: Vec<&Known> = new.copied().collect();
                read.list.extend(new);
            }
            _ if !words.split('+').all(is_known) => read.unknown.push(rule),
            ("+", _) => read.list.sort_by_key(|known| meant(known)),
            _ => {
                read.list.retain(|known| !meant(known));
                left.retain(|known| deed == "-" || !meant(known));
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> Words {
        Words { prefix: "client_tls", protocols: "secure".into(), ciphers: "default".into(), ..Words::default() }
    }

    fn names(text: &str) -> Vec<&'static str> {
        ciphers(text).unwrap_or_default().list.iter().map(|known| known.name).collect()
    }

    #[test]
    fn by_default_all_is_offered_and_nothing_is_said() {
        let offer = Words { ecdhcurve: "auto".into(), dheparams: "auto".into(), ..words() }.read().unwrap();

        assert_eq!((offer.versions.len(), offer.suites.len(), offer.groups.len()), (2, 9, 3));
        assert_eq!(offer.notices, Vec::<String>::new());
    }

    #[test]
    fn versions_are_named_added_and_taken_away() {
        assert_eq!(protocols("secure"), Some(V1_2 | V1_3));
        assert_eq!(protocols("all"), Some(ALL));
        assert_eq!(protocols("tlsv1.2, TLSv1.3"), Some(V1_2 | V1_3));
        assert_eq!(protocols("!tlsv1.3"), Some(V1_0 | V1_1 | V1_2));
        assert_eq!(protocols("secure:!tlsv1.2"), Some(V1_3));
        assert_eq!(protocols("sslv3"), None);
        assert_eq!(protocols("tlsv1.2,"), None);
    }

    #[test]
    fn old_versions_are_never_widened() {
        let old = Words { protocols: "tlsv1.0,tlsv1.1".into(), ..words() }.read().unwrap();
        assert!(old.versions.is_empty());
        assert!(old.notices[0].starts_with("client_tls_protocols: tlsv1.0,tlsv1.1: "), "{:?}", old.notices);

        let mixed = Words { protocols: "tlsv1.1,tlsv1.2".into(), ..words() }.read().unwrap();
        assert_eq!(mixed.versions, [&TLS12]);
        assert_eq!(mixed.notices.len(), 1);

        let all = Words { protocols: "all".into(), ..words() }.read().unwrap();
        assert_eq!(all.notices, ["client_tls_protocols: all: TLS 1.0 and 1.1 are not spoken here"]);
        let wrong = Words { protocols: "sslv2".into(), ..words() }.read().unwrap_err();
        assert!(wrong.starts_with("invalid client_tls_protocols: sslv2"), "{wrong}");
    }

    #[test]
    fn cipher_strings_mean_what_openssl_takes_them_to_mean() {
        // As `openssl ciphers -tls1_2 -s` lists them, as far as they are offered here.
        assert_eq!(names("ECDHE-RSA-AES128-GCM-SHA256"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(names("ECDHE+aRSA+AESGCM"), ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(names("HIGH:!aNULL:!MD5").len(), 6);
        assert_eq!(names("HIGH:!AES"), ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(names("CHACHA20:-ECDSA"), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(names("!ECDSA:ALL:+AES")[0], "ECDHE-RSA-CHACHA20-POLY1305");
        assert_eq!(names("ECDSA:@STRENGTH").len(), 3);
        assert_eq!(names("RSA"), Vec::<&str>::new());
    }

    #[test]
    fn cipher_strings_mean_the_same_suites_as_with_openssl() {
        // As `openssl ciphers -s -tls1_2` of 3.0 has them, of the six that there are here.
        const TABLE: &[(&str, &str)] = &[
            ("ALL", "E256 E128 E20 R256 R128 R20"),
            ("DEFAULT", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!aNULL", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!ECDH", ""),
            ("HIGH:!kECDHE", ""),
            ("HIGH:!kEECDH", ""),
            ("HIGH:!EECDH", ""),
            ("HIGH:!ECDHE", ""),
            ("ECDH", "E256 E128 E20 R256 R128 R20"),
            ("AECDH", ""),
            ("SHA384", ""),
            ("SHA256", ""),
            ("HIGH:!SHA384", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!SHA1:!SHA256:!SHA384", "E256 E128 E20 R256 R128 R20"),
            ("AES128+SHA256", ""),
            ("DEFAULT@SECLEVEL=1", "E256 E128 E20 R256 R128 R20"),
            ("DEFAULT@SECLEVEL=2", "E256 E128 E20 R256 R128 R20"),
            ("HIGH@SECLEVEL=2", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:@SECLEVEL=3", "E256 E128 E20 R256 R128 R20"),
            ("AES128:AES256:@STRENGTH", "E256 E128 R256 R128"),
            ("ECDHE-RSA-AES128-GCM-SHA256@SECLEVEL=1", "R128"),
            ("ECDH+AESGCM:DH+AESGCM:!aNULL", "E256 E128 R256 R128"),
            ("EECDH+AESGCM:EDH+AESGCM:!SHA1:!SHA256:!SHA384", "E256 E128 R256 R128"),
            ("FIPS", "E256 E128 R256 R128"),
            ("HIGH:!FIPS", "E20 R20"),
            ("aRSA+FIPS", "R256 R128"),
            ("SUITEB128", "E256 E128"),
            ("SUITEB128ONLY", "E128"),
            ("SUITEB128C2", "E256"),
            ("SUITEB192", "E256"),
            ("SUITEB128:HIGH", "E256 E128"),
            ("HIGH:SUITEB128", "E256 E128 E20 R256 R128 R20"),
            ("AES128:DEFAULT", "E128 R128"),
            ("DEFAULT:!AES256", "E128 E20 R128 R20"),
            ("HIGH:!TLSv1.2", ""),
            ("HIGH:!TLSv1", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!COMPLEMENTOFDEFAULT", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!AES:AES", "E20 R20"),
            ("HIGH:-AES:AES128", "E128 E20 R128 R20"),
            ("HIGH:-ECDSA", "R256 R128 R20"),
            ("ECDHE:!AESGCM", "E20 R20"),
            ("HIGH:!CBC", "E256 E128 E20 R256 R128 R20"),
            ("HIGH:!ECDHE-RSA-AES128-GCM-SHA256", "E256 E128 E20 R256 R20"),
            (
                "HIGH:!AES128-GCM-SHA256:!ECDHE-RSA-AES128-SHA256:!DHE-RSA-CHACHA20-POLY1305",
                "E256 E128 E20 R256 R128 R20",
            ),
            ("HIGH:!3DES:!CAMELLIA:!ARIA:!PSK:!SRP:!DSS", "E256 E128 E20 R256 R128 R20"),
            ("EECDH+CHACHA20:RSA+AES128:EECDH+AES256:!MD5", "E256 E20 R256 R20"),
            ("HIGH:MEDIUM:!LOW:!SSLv2:!EXPORT", "E256 E128 E20 R256 R128 R20"),
            ("HIGH, !AES", "E20 R20"),
            ("UNKNOWN+HIGH", ""),
            ("kRSA", ""),
            ("DHE", ""),
            ("AESCCM", ""),
        ];
        let short = |known: &Known| {
            let key = if known.words.contains(&"aECDSA") { "E" } else { "R" };
            let cipher = ["AES256", "AES128"].iter().find(|word| known.words.contains(word));
            format!("{key}{}", cipher.map_or("20", |word| &word[3..]))
        };
        for (text, meant) in TABLE {
            let list = ciphers(text).unwrap_or_else(|fault| panic!("{text}: {fault}")).list;
            let ours = suites_of_12().filter(|known| list.iter().any(|listed| listed.name == known.name));
            assert_eq!(ours.map(short).collect::<Vec<_>>().join(" "), *meant, "{text}");
        }
        assert_eq!(names("AES128:AES256:@STRENGTH")[3], "ECDHE-RSA-AES128-GCM-SHA256");
    }

    #[test]
    fn a_word_that_nobody_knows_is_told_and_removes_nothing_in_silence() {
        let read = |text: &str| Words { ciphers: text.into(), ..words() }.read();
        for (text, rule) in [
            ("HIGH:!UNKNOWN", "!UNKNOWN"),
            ("HIGH:-ecdhe", "-ecdhe"),
            ("HIGH:!kecdhe", "!kecdhe"),
            ("HIGH:!kECDH", "!kECDH"),
            ("HIGH:!AEAD", "!AEAD"),
            ("HIGH:!DEFAULT", "!DEFAULT"),
            ("HIGH:!AES128+UNKNOWN", "!AES128+UNKNOWN"),
            ("HIGH:!ECDHE-RSA-AES128-GCM-SHA265", "!ECDHE-RSA-AES128-GCM-SHA265"),
            ("HIGH:!ECDHE-RSA-AES128-GCM-SHA384", "!ECDHE-RSA-AES128-GCM-SHA384"),
            ("HIGH:!CHACHA20-POLY1305", "!CHACHA20-POLY1305"),
            ("HIGH:!", "!"),
            ("HIGH@SECLEVEL=4", "@SECLEVEL=4"),
            ("HIGH:@FOO", "@FOO"),
        ] {
            let refused = read(text).unwrap_err();
            let start = format!("invalid client_tls_ciphers: {text}: {rule} is not known here");
            assert!(refused.starts_with(&start), "{refused}");
        }
        let refused = read("UNKNOWN:DHE").unwrap_err();
        assert!(refused.contains(": none of them is offered here, and unknown is UNKNOWN; "), "{refused}");

        let passed = "client_tls_ciphers: passed over, being no words for ciphers of TLS 1.2: ";
        for (text, rules) in [
            ("HIGH:UNKNOWN:+OTHER", "UNKNOWN, +OTHER"),
            ("HIGH:!CBC+UNKNOWN", "!CBC+UNKNOWN"),
            ("HIGH:!TLS_AES_128_GCM_SHA256", "!TLS_AES_128_GCM_SHA256"),
        ] {
            assert_eq!(read(text).unwrap().notices, [format!("{passed}{rules}")]);
        }
        for text in ["SUITEB192", "HIGH@SECLEVEL=3"] {
            assert!(read(text).unwrap().notices[0].contains(" not as to keys and curves: "), "{text}");
        }
        for text in ["DEFAULT@SECLEVEL=2", "HIGH:!aNULL:!anull:!MD5:!RC4-SHA", "ALL:@STRENGTH"] {
            assert_eq!(read(text).unwrap().notices, Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_is_not_offered_is_told_by_name() {
        let text = "DHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:AES256-SHA";
        let offer = Words { ciphers: text.into(), ..words() }.read().unwrap();
        assert_eq!(offer.notices, ["client_tls_ciphers: not offered here: DHE-RSA-AES256-GCM-SHA384, AES256-SHA"]);

        let refused = Words { ciphers: "DHE-RSA-AES256-GCM-SHA384".into(), ..words() }.read().unwrap_err();
        assert!(refused.starts_with("invalid client_tls_ciphers: DHE-RSA-AES256-GCM-SHA384: none"), "{refused}");

        let legacy = Words { dheparams: "legacy".into(), ..words() }.read().unwrap();
        assert!(legacy.notices[0].contains("client_tls_dheparams: legacy"), "{:?}", legacy.notices);
        assert!(Words { dheparams: "2048".into(), ..words() }.read().is_err());
    }

    #[test]
    fn the_suites_of_tls_1_3_are_named_in_full() {
        let one = Words { ciphers13: Some("TLS_CHACHA20_POLY1305_SHA256".into()), ..words() }.read().unwrap();
        let thirteen = one.suites.iter().filter(|suite| suite.version() == &TLS13);
        assert_eq!(thirteen.map(|suite| suite_name(*suite)).collect::<Vec<_>>(), ["TLS_CHACHA20_POLY1305_SHA256"]);

        let wrong = Words { ciphers13: Some("unknown".into()), ..words() }.read().unwrap_err();
        assert!(wrong.contains("failed to set the TLSv1.3 cipher suites"), "{wrong}");
        assert!(wrong.starts_with("client_tls13_ciphers: unknown"), "{wrong}");
        let ccm = Words { ciphers13: Some("TLS_AES_128_CCM_SHA256".into()), ..words() }.read().unwrap_err();
        assert!(ccm.contains("TLS_AES_128_CCM_SHA256"), "{ccm}");
    }

    #[test]
    fn curves_have_openssls_names() {
        for (text, name) in [("X25519", "X25519"), ("P-256", "prime256v1"), ("secp384r1", "secp384r1")] {
            let offer = Words { ecdhcurve: text.into(), ..words() }.read().unwrap();
            assert_eq!(offer.groups.iter().map(|group| group_name(*group)).collect::<Vec<_>>(), [name]);
        }
        let refused = Words { ecdhcurve: "secp521r1".into(), ..words() }.read().unwrap_err();
        assert!(refused.starts_with("invalid client_tls_ecdhcurve: secp521r1: "), "{refused}");
    }

    proptest! {
        #[test]
        fn a_list_never_offers_what_it_bans(text in "([A-Z]{3,6}|ECDHE|AES|ECDSA|CHACHA20|ALL|[+!: -]){0,12}") {
            let list = names(&format!("{text}:!AES128"));
            prop_assert!(!list.iter().any(|name| name.contains("AES128")));
        }

        #[test]
        fn no_value_makes_the_reading_fail_otherwise(text in ".{0,60}", curve in ".{0,12}") {
            let read = Words {
                protocols: text.clone(),
                ciphers: text.clone(),
                ciphers13: Some(text),
                ecdhcurve: curve,
                ..words()
            }
            .read();
            if let Ok(offer) = read {
                prop_assert!(offer.versions.iter().all(|version| [&TLS12, &TLS13].contains(version)));
            }
        }
    }
}
