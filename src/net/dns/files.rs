//! What the system's files say of names: `resolv.conf`, `/etc/hosts`, and the names that a short one may stand for.
//!
//! Pure: no clock, lock, socket or task; the texts are arguments. Manual: resolv.conf(5), hosts(5). Both are read as
//! the C library reads them: a line that makes no sense says nothing. (The `resolv-conf` package refuses a port.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The port of name servers.
const PORT: u16 = 53;
/// Most name servers, as in the C library. Three, so that a lookup ends.
const SERVERS_MAX: usize = 3;
/// The highest `ndots`, `timeout` and `attempts`, as in the C library.
const NDOTS_MAX: usize = 15;
const TIMEOUT_MAX: u64 = 30;
const ATTEMPTS_MAX: usize = 5;

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers in order, at least one.
    pub servers: Vec<SocketAddr>,
    /// Domains to look for short names in.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is before the domains are.
    pub ndots: usize,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How often to ask.
    pub attempts: usize,
    /// `use-vc`: over TCP only.
    pub tcp: bool,
}

impl ResolvConf {
    /// Reads the text of a `resolv.conf`. A `nameserver` may have a port: `127.0.0.1:5353`, `[::1]:5353`.
    pub fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < SERVERS_MAX => {
                    conf.servers.extend(words.next().and_then(server));
                }
                // The last of these lines counts.
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        match (name, value.parse::<usize>()) {
            ("ndots", Ok(dots)) => self.ndots = dots.min(NDOTS_MAX),
            ("timeout", Ok(seconds)) => self.timeout = Duration::from_secs((seconds as u64).clamp(1, TIMEOUT_MAX)),
            ("attempts", Ok(attempts)) => self.attempts = attempts.clamp(1, ATTEMPTS_MAX),
            ("use-vc", _) => self.tcp = true,
            _ => {}
        }
    }

    /// The names to ask for, one after the other, when somebody says `name`; each ends in a dot.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let whole = format!("{name}.");
        let in_domains = self.search.iter().map(|domain| domain.trim_matches('.')).filter(|domain| !domain.is_empty());
        let mut candidates: Vec<String> = in_domains.map(|domain| format!("{name}.{domain}.")).collect();
        let at = if name.matches('.').count() >= self.ndots { 0 } else { candidates.len() };
        candidates.insert(at, whole);
        candidates
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT)).ok().or_else(with_port)
}

/// The addresses that the text of a hosts file gives to a name, in its order.
pub fn in_hosts_file(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The name that the text of a hosts file gives to an address: the first of the first line that has it.
pub fn name_in_hosts_file(text: &str, address: IpAddr) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let own = words.next()?.parse::<IpAddr>().ok()? == address;
        words.next().filter(|_| own).map(str::to_owned)
    })
}

/// The addresses of a name that is this machine's by definition (RFC 6761).
pub fn of_localhost(name: &str) -> Option<Vec<IpAddr>> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let local = name == "localhost" || name.ends_with(".localhost");
    local.then(|| vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_is_read_as_the_c_library_reads_it() {
        let conf = ResolvConf::parse(
            "# a comment\n; another\nnameserver 10.0.0.1\nnameserver ::1 # ignored\nnameserver nonsense\n\
             nameserver 127.0.0.1:5353\nnameserver 10.9.9.9\nsortlist 1.2.3.4\n\tsearch a.example b.example\n\
             options ndots:5 timeout:3 attempts:99 edns0 use-vc ndots:x\nwhat is this",
        );

        let servers = ["10.0.0.1:53", "[::1]:53", "127.0.0.1:5353"].map(|text| text.parse().unwrap());
        assert_eq!(conf.servers, servers);
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts, conf.tcp), (5, Duration::from_secs(3), 5, true));
    }

    #[test]
    fn without_a_file_this_machine_is_asked() {
        let conf = ResolvConf::parse("");

        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts, conf.tcp), (1, Duration::from_secs(5), 2, false));
    }

    #[test]
    fn the_last_of_domain_and_search_counts() {
        assert_eq!(ResolvConf::parse("search a b\ndomain c d\n").search, ["c"]);
        assert_eq!(ResolvConf::parse("domain c\nsearch a b\n").search, ["a", "b"]);
    }

    #[test]
    fn short_names_are_looked_for_in_the_domains() {
        let conf = ResolvConf::parse("search ns.svc.local svc.local.\noptions ndots:2\n");

        assert_eq!(conf.candidates("db"), ["db.ns.svc.local.", "db.svc.local.", "db."]);
        assert_eq!(conf.candidates("db.ns"), ["db.ns.ns.svc.local.", "db.ns.svc.local.", "db.ns."]);
        assert_eq!(conf.candidates("a.b.c"), ["a.b.c.", "a.b.c.ns.svc.local.", "a.b.c.svc.local."]);
        assert_eq!(conf.candidates("db."), ["db."]);
        assert_eq!(ResolvConf::parse("search .\n").candidates("db"), ["db."]);
    }

    #[test]
    fn the_hosts_file_knows_names_and_aliases() {
        let text =
            "127.0.0.1 localhost\n10.0.0.5\tdb.example  DB # not: comment\n::5 db\n10.0.0.5 db\nbad db\n10.0.0.6";

        assert_eq!(in_hosts_file(text, "db"), [ip("10.0.0.5"), ip("::5")]);
        assert_eq!(in_hosts_file(text, "Db.Example."), [ip("10.0.0.5")]);
        assert_eq!(in_hosts_file(text, "comment"), [] as [IpAddr; 0]);
        assert_eq!(name_in_hosts_file(text, ip("10.0.0.5")).as_deref(), Some("db.example"), "not an alias");
        assert_eq!(name_in_hosts_file(text, ip("10.0.0.6")), None);
        assert_eq!(name_in_hosts_file(text, ip("10.0.0.7")), None);
    }

    #[test]
    fn localhost_is_here() {
        assert_eq!(of_localhost("LocalHost."), Some(vec![ip("::1"), ip("127.0.0.1")]));
        assert!(of_localhost("db.localhost").is_some());
        assert_eq!(of_localhost("notlocalhost"), None);
    }

    proptest! {
        #[test]
        fn any_text_gives_somebody_to_ask(text in "[ -~\n\t]{0,200}", name in "[a-z.]{0,20}") {
            let conf = ResolvConf::parse(&text);
            prop_assert!((1..=SERVERS_MAX).contains(&conf.servers.len()));
            prop_assert!((1..=ATTEMPTS_MAX).contains(&conf.attempts));
            let candidates = conf.candidates(&name);
            prop_assert!(!candidates.is_empty() && candidates.iter().all(|candidate| candidate.ends_with('.')));
            in_hosts_file(&text, &name);
        }

        #[test]
        fn what_is_written_is_read(some in prop::collection::vec(any::<(IpAddr, u16)>(), 1..4), ndots in 0usize..16) {
            let with_port = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip, port.max(1));
            let servers: Vec<SocketAddr> = some.into_iter().map(with_port).collect();
            let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
            let conf = ResolvConf::parse(&format!("{lines}options ndots:{ndots}\n"));
            prop_assert_eq!((conf.servers, conf.ndots), (servers, ndots));
        }
    }
}
