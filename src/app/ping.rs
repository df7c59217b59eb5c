//! `--ping`: does the pooler that this configuration describes answer?
//!
//! For health checks in places without a shell or `pg_isready`: a container, a unit, a probe of Kubernetes. The
//! question is a GSSENCRequest, which every pooler answers with one byte before it asks who is there: no user, no
//! database and no TLS are involved. A port that merely accepts is no answer, because the kernel accepts for a process
//! that is stuck. An error is one: a full pooler lives. While the process shuts down it listens no more on TCP, so the
//! answer is no. Manual: "GSSAPI Session Encryption".

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::cli::{self, Command};
use crate::net::listen::{ListenOptions, unix_address};
use crate::wire::startup;

/// How long connecting may take, and then the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Nobody answered: what was tried, and what came of it.
#[derive(Debug)]
pub struct NoAnswer(Vec<(String, io::Error)>);

impl fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("nowhere to ask: neither listen_addr nor unix_socket_dir is set");
        }
        for (index, (place, error)) in self.0.iter().enumerate() {
            write!(out, "{}{place}: no answer: {error}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for NoAnswer {}

/// Asks where these options listen, one place after the other, and returns the first that answers.
///
/// # Errors
/// None did within a few seconds each.
pub fn ping(options: &ListenOptions) -> Result<String, NoAnswer> {
    let mut failures = Vec::new();
    for name in options.addresses.iter().filter(|name| !name.is_empty()) {
        match reachable(name, options.port) {
            Ok(addresses) => {
                for address in addresses {
                    match ask(Domain::for_address(address), &address.into()) {
                        Ok(()) => return Ok(address.to_string()),
                        Err(error) => failures.push((address.to_string(), error)),
                    }
                }
            }
            Err(error) => failures.push((format!("listen_addr {name}"), error)),
        }
    }
    if let Some(path) = options.unix_path() {
        match unix_address(&path).and_then(|address| ask(Domain::UNIX, &address)) {
            Ok(()) => return Ok(format!("unix:{path}")),
            Err(error) => failures.push((format!("unix:{path}"), error)),
        }
    }
    Err(NoAnswer(failures))
}

/// The configuration file of the container's pooler, if process 1 is one: a health check is written into an image,
/// which does not know what its container will be told to run.
pub fn conffile_of_container() -> Option<PathBuf> {
    conffile_in(&fs::read("/proc/1/cmdline").ok()?)
}

/// The file in a command line as `/proc` shows it. What may stand before the program is `docker-init --`.
fn conffile_in(cmdline: &[u8]) -> Option<PathBuf> {
    let words = cmdline.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let mut words = words.skip_while(|word| !is_pooler(word));
    words.next()?;
    let arguments: Vec<OsString> = words.filter(|word| !word.is_empty()).collect();
    match cli::parse(arguments, false) {
        Ok(Command::Run(run)) => run.conffile,
        _ => None,
    }
}

fn is_pooler(word: &OsStr) -> bool {
    Path::new(word).file_name().is_some_and(|name| name == "pgweir" || name == "pgbouncer")
}

/// How a neighbour on this machine reaches a word of `listen_addr`: the wildcards by the loopback address.
fn reachable(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    if name == "*" {
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let mut addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    for address in addresses.iter_mut().filter(|address| address.ip().is_unspecified()) {
        address.set_ip(loopback[usize::from(address.is_ipv6())]);
    }
    Ok(addresses)
}

/// One question, one byte in answer.
fn ask(domain: Domain, address: &SockAddr) -> io::Result<()> {
    let mut socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut question = Vec::new();
    startup::gssenc_request(&mut question);
    socket.write_all(&question)?;
    let mut answer = [0];
    match socket.read_exact(&mut answer) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::config::Settings;
    use crate::wire::startup::First;

    fn options(address: &str, port: u16) -> ListenOptions {
        ListenOptions {
            addresses: vec![address.to_owned()],
            port,
            unix_dir: String::new(),
            ..ListenOptions::from_settings(&Settings::default())
        }
    }

    /// Serves one visitor: hears its question, and says this.
    fn visited(answer: &'static [u8]) -> (u16, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = thread::spawn(move || {
            let (mut visitor, _) = listener.accept().unwrap();
            let mut question = vec![0; 8];
            visitor.read_exact(&mut question).unwrap();
            visitor.write_all(answer).unwrap();
            question
        });
        (port, heard)
    }

    #[test]
    fn one_byte_of_whatever_kind_is_an_answer() {
        for answer in [b"N".as_slice(), b"S", b"EFATAL"] {
            let (port, heard) = visited(answer);

            assert_eq!(ping(&options("127.0.0.1", port)).unwrap(), format!("127.0.0.1:{port}"));

            assert_eq!(First::read(&heard.join().unwrap()), Ok(Some((First::Gss, 8))));
        }
    }

    #[test]
    fn hanging_up_is_no_answer() {
        let (port, heard) = visited(b"");

        let error = ping(&options("127.0.0.1", port)).unwrap_err().to_string();

        assert!(error.starts_with(&format!("127.0.0.1:{port}: no answer: ")), "{error}");
        heard.join().unwrap();
    }

    #[test]
    fn a_closed_port_is_no_answer() {
        // Nobody else gets the port while this socket has it, which does not listen.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();

        let error = ping(&options("127.0.0.1", port)).unwrap_err().to_string();

        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn whoever_listens_everywhere_is_asked_over_loopback() {
        for (name, expected) in [("0.0.0.0", "127.0.0.1:7"), ("::", "[::1]:7"), ("10.1.2.3", "10.1.2.3:7")] {
            assert_eq!(reachable(name, 7).unwrap(), [expected.parse().unwrap()], "{name}");
        }
        assert_eq!(reachable("*", 7).unwrap().len(), 2);
    }

    #[test]
    fn a_unix_socket_is_asked_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let unix_dir = dir.path().display().to_string();
        let path = format!("{unix_dir}/.s.PGSQL.6432");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let answering = thread::spawn(move || listener.accept().unwrap().0.write_all(b"N").unwrap());

        let place = ping(&ListenOptions { unix_dir, ..options("", 6432) }).unwrap();

        assert_eq!(place, format!("unix:{path}"));
        answering.join().unwrap();
    }

    #[test]
    fn the_containers_command_names_the_file() {
        for (cmdline, expected) in [
            ("pgbouncer\0/etc/pgbouncer/pgbouncer.ini\0", Some("/etc/pgbouncer/pgbouncer.ini")),
            ("/usr/bin/pgweir\0-v\0/x.toml\0", Some("/x.toml")),
            ("/sbin/docker-init\0--\0/usr/bin/pgbouncer\0-u\0me\0/x.ini\0", Some("/x.ini")),
            ("/usr/bin/pgweir\0", None),
            ("/sbin/init\0splash\0", None),
            ("", None),
        ] {
            assert_eq!(conffile_in(cmdline.as_bytes()), expected.map(PathBuf::from), "{cmdline:?}");
        }
    }

    #[test]
    fn nowhere_to_ask_is_said() {
        assert!(ping(&options("", 6432)).unwrap_err().to_string().starts_with("nowhere to ask"));
    }
}
