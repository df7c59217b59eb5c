//! Where clients arrive: the sockets of `listen_addr` and `unix_socket_dir`.
//!
//! [`listen`] opens them all, before any client is served. As with PgBouncer, one address of `listen_addr` that cannot
//! be had is a warning as long as another one can; a name that does not resolve, no address at all, and a Unix socket
//! that cannot be made are errors. Sockets come back in non-blocking mode, with the `tcp_*` options set (accepted
//! sockets inherit those, see [`super::sockopt`]).
//!
//! A socket file left behind by a process that died is removed; one that somebody still answers on is not. The file of
//! a socket is removed when its [`SocketFile`] is dropped, unless another process has put its own there meanwhile.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Settings;

use super::sockopt::{self, SockoptError, TcpOptions};

/// Where to listen, from the settings.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// `listen_addr`: names, addresses, `*`; empty for no TCP at all.
    pub addresses: Vec<String>,
    /// `listen_port`; 0 lets the kernel choose, for tests.
    pub port: u16,
    /// `listen_backlog`.
    pub backlog: u32,
    /// `so_reuseport`.
    pub reuse_port: bool,
    /// `tcp_defer_accept` is not 0.
    pub defer_accept: bool,
    /// The `tcp_*` settings.
    pub tcp: TcpOptions,
    /// `unix_socket_dir`: a directory, `@` and a name for an abstract socket, or empty for no Unix socket.
    pub unix_dir: String,
    /// `unix_socket_mode`: permission bits.
    pub unix_mode: u32,
    /// `unix_socket_group`: name or number; empty leaves the process' own.
    pub unix_group: String,
}

impl ListenOptions {
    /// What the settings say.
    pub fn from_settings(settings: &Settings) -> ListenOptions {
        ListenOptions {
            addresses: settings.listen_addr.iter().map(ToString::to_string).collect(),
            port: settings.listen_port,
            backlog: settings.listen_backlog,
            reuse_port: settings.so_reuseport,
            defer_accept: settings.tcp_defer_accept,
            tcp: TcpOptions::from_settings(settings),
            unix_dir: settings.unix_socket_dir.clone().unwrap_or_default(),
            unix_mode: settings.unix_socket_mode,
            unix_group: settings.unix_socket_group.clone().unwrap_or_default(),
        }
    }

    /// The path of the Unix socket, with an `@` before an abstract one; none where there is to be no socket.
    pub fn unix_path(&self) -> Option<String> {
        (!self.unix_dir.is_empty()).then(|| format!("{}/.s.PGSQL.{}", self.unix_dir, self.port))
    }
}

/// The address of a Unix socket of [`ListenOptions::unix_path`].
///
/// # Errors
/// The path is too long for one.
pub fn unix_address(path: &str) -> io::Result<SockAddr> {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket, in non-blocking mode.
    pub socket: ListenSocket,
    /// What the log calls it: `127.0.0.1:6432`, `[::1]:6432`, `unix:/tmp/.s.PGSQL.6432`.
    pub name: String,
    /// The socket's file; none for TCP and abstract sockets. Dropping it removes the file.
    pub file: Option<SocketFile>,
}

/// Accepts a connection, in non-blocking mode.
///
/// # Errors
/// As `accept(2)`.
pub fn accept_from(socket: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    Ok(acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// The listeners that are open, for whoever wants to see them.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Vec<Weak<Listener>>>);

impl Listeners {
    /// Adds one, until it is dropped.
    pub fn enter(&self, listener: &Arc<Listener>) {
        self.lock().push(Arc::downgrade(listener));
    }

    /// Those that are open.
    pub fn all(&self) -> Vec<Arc<Listener>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket of a [`Listener`].
#[derive(Debug)]
pub enum ListenSocket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix domain.
    Unix(UnixListener),
}

/// All that could be opened.
#[derive(Debug)]
pub struct Listening {
    /// The sockets, in the order of the settings, the Unix socket last; at least one.
    pub listeners: Vec<Listener>,
    /// Addresses that could not be had: a warning each.
    pub warnings: Vec<ListenError>,
}

/// Opens every socket that the settings ask for.
///
/// # Errors
/// The process cannot start: see the variants of [`ListenError`].
pub fn listen(options: &ListenOptions) -> Result<Listening, ListenError> {
    listen_on(options, Vec::new())
}

/// As [`listen`], with the sockets that a predecessor had open: those that are asked for are used, the others closed.
///
/// # Errors
/// As [`listen`].
pub fn listen_on(options: &ListenOptions, inherited: Vec<OwnedFd>) -> Result<Listening, ListenError> {
    let mut inherited: Vec<Socket> = inherited.into_iter().map(Socket::from).collect();
    let mut listening = Listening { listeners: Vec::new(), warnings: Vec::new() };
    for name in options.addresses.iter().filter(|name| !name.is_empty()) {
        for address in resolve(name, options.port)? {
            let found = take_bound_to(&mut inherited, &address.into());
            match found.map_or_else(|| listen_tcp(address, options), |socket| inherit_tcp(socket, address, options)) {
                Ok(listener) => listening.listeners.push(listener),
                Err(error) => listening.warnings.push(error),
            }
        }
    }
    if listening.listeners.is_empty() && !listening.warnings.is_empty() {
        return Err(ListenError::NoAddress(listening.warnings));
    }
    if !options.unix_dir.is_empty() {
        let (_, address) = unix_end(options)?;
        listening.listeners.push(match take_bound_to(&mut inherited, &address) {
            Some(socket) => inherit_unix(socket, options)?,
            None => listen_unix(options)?,
        });
    }
    if listening.listeners.is_empty() {
        return Err(ListenError::Nowhere);
    }
    Ok(listening)
}

/// What [`rehearse`] found.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// The process would not start; each with its setting.
    pub errors: Vec<(&'static str, ListenError)>,
    /// Addresses that it would start without.
    pub warnings: Vec<ListenError>,
}

/// Tries what can be tried of [`listen`] while another process may be listening there: do names resolve, has this
/// machine the addresses, can there be such a Unix socket and such a group.
pub fn rehearse(options: &ListenOptions) -> Rehearsal {
    let mut found = Rehearsal::default();
    let mut had = 0;
    for name in options.addresses.iter().filter(|name| !name.is_empty()) {
        match resolve(name, 0) {
            Ok(addresses) => {
                for address in addresses {
                    match bind_to(address).map_err(|(call, source)| refused(address.ip(), call, source)) {
                        Ok(_) => had += 1,
                        Err(error) => found.warnings.push(error),
                    }
                }
            }
            Err(error) => found.errors.push(("listen_addr", error)),
        }
    }
    if had == 0 {
        found.errors.extend(found.warnings.drain(..).map(|error| ("listen_addr", error)));
    }
    if !options.unix_dir.is_empty() {
        found.errors.extend(unix_end(options).err().map(|error| ("unix_socket_dir", error)));
        if !options.unix_group.is_empty() {
            found.errors.extend(group_id(&options.unix_group).err().map(|error| ("unix_socket_group", error)));
        }
    } else if had == 0 && found.errors.is_empty() {
        found.errors.push(("listen_addr", ListenError::Nowhere));
    }
    found
}

impl Listener {
    /// Is it a Unix socket, which stays open for the console while the process shuts down?
    pub fn is_unix(&self) -> bool {
        matches!(self.socket, ListenSocket::Unix(_))
    }

    /// From now on the kernel answers no SYN to this TCP socket. Connections that have begun can still be accepted, and
    /// come to the queue when they are made, not only when they have sent something; those that begin now begin again
    /// in a second, and then meet another process that listens on the port.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub fn refuse_new(&self) -> io::Result<()> {
        match &self.socket {
            ListenSocket::Tcp(socket) => {
                let _ = sockopt::defer_accept(socket, false);
                sockopt::drop_syn(socket)
            }
            ListenSocket::Unix(_) => Ok(()),
        }
    }

    /// A connection that has come already.
    ///
    /// # Errors
    /// As `accept(2)`; `WouldBlock` where there is none.
    pub fn accept_now(&self) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        match &self.socket {
            ListenSocket::Tcp(socket) => accept_from(socket),
            ListenSocket::Unix(socket) => accept_from(socket),
        }
    }

    /// Sets changed `tcp_*` settings, for the clients that come from now on. Does nothing to a Unix socket.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn retune(&self, tcp: &TcpOptions, defer_accept: bool) -> Result<(), SockoptError> {
        match &self.socket {
            ListenSocket::Tcp(socket) => {
                tcp.apply(socket)?;
                sockopt::defer_accept(socket, defer_accept)
            }
            ListenSocket::Unix(_) => Ok(()),
        }
    }
}

/// The addresses of one word of `listen_addr`.
fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    if name == "*" {
        let every: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(every.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    match (name, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(source) => Err(ListenError::Unresolved { name: name.to_owned(), source }),
    }
}

fn listen_tcp(address: SocketAddr, options: &ListenOptions) -> Result<Listener, ListenError> {
    let socket = open_tcp(address, options).map_err(|(call, source)| refused(address, call, source))?;
    let name = socket.local_addr().unwrap_or(address).to_string();
    Ok(Listener { socket: ListenSocket::Tcp(socket), name, file: None })
}

/// The socket that is bound to this address, taken out.
fn take_bound_to(inherited: &mut Vec<Socket>, address: &SockAddr) -> Option<Socket> {
    let bound = |socket: &Socket| socket.local_addr().is_ok_and(|bound| bound == *address);
    let at = inherited.iter().position(bound)?;
    Some(inherited.remove(at))
}

fn inherit_tcp(socket: Socket, address: SocketAddr, options: &ListenOptions) -> Result<Listener, ListenError> {
    let name = address.to_string();
    let refused = |call, source| refused(&name, call, source);
    options.tcp.apply(&socket).map_err(|error| refused(error.setting, error.source))?;
    socket.set_nonblocking(true).map_err(|source| refused("non-blocking", source))?;
    let socket = TcpListener::from(socket);
    sockopt::defer_accept(&socket, options.defer_accept).map_err(|error| refused(error.setting, error.source))?;
    Ok(Listener { socket: ListenSocket::Tcp(socket), name, file: None })
}

/// The file of the socket is ours from now on.
fn inherit_unix(socket: Socket, options: &ListenOptions) -> Result<Listener, ListenError> {
    let (path, _) = unix_end(options)?;
    let name = format!("unix:{path}");
    let refused = |call, source| ListenError::Refused { name: name.clone(), call, source };
    socket.set_nonblocking(true).map_err(|source| refused("non-blocking", source))?;
    let file = match path.starts_with('@') {
        true => None,
        false => Some(SocketFile::new(PathBuf::from(&path)).map_err(|source| refused("stat", source))?),
    };
    Ok(Listener { socket: ListenSocket::Unix(socket.into()), name, file })
}

/// The path of the Unix socket, an abstract one with `@` in front, and its address.
fn unix_end(options: &ListenOptions) -> Result<(String, SockAddr), ListenError> {
    let path = options.unix_path().unwrap_or_default();
    let address = unix_address(&path).map_err(|source| ListenError::Refused {
        name: format!("unix:{path}"),
        call: "unix_socket_dir",
        source,
    })?;
    Ok((path, address))
}

/// A socket for this address, not bound yet.
fn tcp_socket(address: SocketAddr) -> Result<Socket, (&'static str, io::Error)> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, None).map_err(during("socket()"))?;
    socket.set_reuse_address(true).map_err(during("SO_REUSEADDR"))?;
    if domain == Domain::IPV6 {
        // Or `::` would take the port of every IPv4 address as well.
        socket.set_only_v6(true).map_err(during("IPV6_V6ONLY"))?;
    }
    Ok(socket)
}

/// Is this address to be had at all?
fn bind_to(address: SocketAddr) -> Result<(), (&'static str, io::Error)> {
    tcp_socket(address)?.bind(&address.into()).map_err(during("bind()"))
}

fn open_tcp(address: SocketAddr, options: &ListenOptions) -> Result<TcpListener, (&'static str, io::Error)> {
    let socket = tcp_socket(address)?;
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(during("so_reuseport"))?;
    }
    socket.bind(&address.into()).map_err(during("bind()"))?;
    options.tcp.apply(&socket).map_err(|error| (error.setting, error.source))?;
    socket.set_nonblocking(true).map_err(during("non-blocking"))?;
    socket.listen(backlog(options)).map_err(during("listen()"))?;
    sockopt::defer_accept(&socket, options.defer_accept).map_err(|error| (error.setting, error.source))?;
    Ok(socket.into())
}

fn listen_unix(options: &ListenOptions) -> Result<Listener, ListenError> {
    let (path, address) = unix_end(options)?;
    let name = format!("unix:{path}");
    let refused = |call| {
        let name = name.clone();
        move |source| ListenError::Refused { name, call, source }
    };
    let is_abstract = path.starts_with('@');
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(refused("socket()"))?;
    if somebody_answers(&address) {
        return Err(ListenError::InUse { name });
    }
    if !is_abstract {
        make_way(Path::new(&path))?;
    }
    socket.bind(&address).map_err(refused("bind()"))?;
    let file = match is_abstract {
        true => None,
        false => {
            let file = SocketFile::new(PathBuf::from(&path)).map_err(refused("bind()"))?;
            // Before listen(), so that nobody gets in who may not.
            file.open_to(options.unix_mode, &options.unix_group)?;
            Some(file)
        }
    };
    socket.set_nonblocking(true).map_err(refused("non-blocking"))?;
    socket.listen(backlog(options)).map_err(refused("listen()"))?;
    Ok(Listener { socket: ListenSocket::Unix(socket.into()), name, file })
}

fn backlog(options: &ListenOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

/// Is a process listening on this Unix socket? A full backlog is an answer too.
fn somebody_answers(address: &SockAddr) -> bool {
    let Ok(socket) = Socket::new(Domain::UNIX, Type::STREAM, None) else { return false };
    if socket.set_nonblocking(true).is_err() {
        return false;
    }
    match socket.connect(address) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Removes the socket that a dead process left, and nothing else.
fn make_way(path: &Path) -> Result<(), ListenError> {
    // PostgreSQL marks a socket as its own with this file, and keeps it while it starts and does not answer yet.
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    if fs::symlink_metadata(&lock).is_ok() {
        return Err(ListenError::Locked { lock: lock.into() });
    }
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::Stale { path: path.to_owned(), source }),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(|source| ListenError::Stale { path: path.to_owned(), source })
}

/// The file of a Unix socket, removed on drop if it is still the same file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: a successor's file under the same name is not ours to remove.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(&path)?;
        Ok(SocketFile { path, identity: (found.dev(), found.ino()) })
    }

    fn open_to(&self, mode: u32, group: &str) -> Result<(), ListenError> {
        if !group.is_empty() {
            let id = group_id(group)?;
            std::os::unix::fs::chown(&self.path, None, Some(id))
                .map_err(|source| ListenError::Group { group: group.to_owned(), source: Some(source) })?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).map_err(|source| ListenError::Mode {
            path: self.path.clone(),
            mode,
            source,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // Nobody is left to tell, and the next start clears it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The number of a group that is given by name or number.
fn group_id(group: &str) -> Result<u32, ListenError> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let unknown = |source| ListenError::Group { group: group.to_owned(), source };
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(unknown(None)),
        Err(errno) => Err(unknown(Some(errno.into()))),
    }
}

/// Why a socket could not be opened. Printed, it names the setting and the way out.
#[derive(Debug)]
pub enum ListenError {
    /// A word of `listen_addr` is neither an address nor a name that resolves.
    Unresolved {
        /// The word.
        name: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// The kernel refuses a socket.
    Refused {
        /// The socket.
        name: String,
        /// The system call or the setting.
        call: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Not one address of `listen_addr` could be had.
    NoAddress(Vec<ListenError>),
    /// Somebody listens on the Unix socket.
    InUse {
        /// The socket.
        name: String,
    },
    /// PostgreSQL has locked the Unix socket.
    Locked {
        /// Its lock file.
        lock: PathBuf,
    },
    /// Something that is no socket has the Unix socket's name.
    NotASocket {
        /// Its path.
        path: PathBuf,
    },
    /// An old Unix socket cannot be removed.
    Stale {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// `unix_socket_group` cannot be given the socket.
    Group {
        /// The setting.
        group: String,
        /// The kernel's reason; none where there is no such group.
        source: Option<io::Error>,
    },
    /// `unix_socket_mode` cannot be set.
    Mode {
        /// The socket's path.
        path: PathBuf,
        /// The setting.
        mode: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Neither `listen_addr` nor `unix_socket_dir` is set.
    Nowhere,
    /// A descriptor that the service manager passed cannot be listened on.
    Passed {
        /// The descriptor.
        number: usize,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::Unresolved { name, source } => {
                write!(out, "listen_addr: \"{name}\" is neither an address nor a name that resolves: {source}")
            }
            ListenError::Refused { name, call, source } => {
                write!(out, "cannot listen on {name}: {call}: {source}{}", way_out(call, source))
            }
            ListenError::NoAddress(errors) => {
                out.write_str("failed to listen on any address in listen_addr")?;
                errors.iter().try_for_each(|error| write!(out, "\n{error}"))
            }
            ListenError::InUse { name } => {
                write!(
                    out,
                    "unix socket is in use, cannot continue: stop the process that listens on {name}, or change "
                )?;
                out.write_str("listen_port")
            }
            ListenError::Locked { lock } => write!(
                out,
                "unix port is in use: {} exists; change listen_port, or remove the file if its server is gone",
                lock.display()
            ),
            ListenError::NotASocket { path } => {
                write!(out, "cannot listen on {}: something that is not a socket is in its place", path.display())
            }
            ListenError::Stale { path, source } => {
                write!(out, "cannot remove the old socket {}: {source}", path.display())
            }
            ListenError::Group { group, source: None } => {
                write!(out, "unix_socket_group: there is no group \"{group}\"")
            }
            ListenError::Group { group, source: Some(source) } => {
                write!(out, "unix_socket_group: cannot give the socket to \"{group}\": {source}")
            }
            ListenError::Mode { path, mode, source } => {
                write!(out, "unix_socket_mode: cannot set {mode:#o} on {}: {source}", path.display())
            }
            ListenError::Passed { number, source } => {
                write!(out, "failed to set up socket passed from service manager (fd {number}): {source}")
            }
            ListenError::Nowhere => out.write_str("nowhere to listen on: set listen_addr or unix_socket_dir"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ListenError::Unresolved { source, .. }
            | ListenError::Refused { source, .. }
            | ListenError::Stale { source, .. }
            | ListenError::Passed { source, .. }
            | ListenError::Group { source: Some(source), .. }
            | ListenError::Mode { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What an operator can do about it.
fn way_out(call: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the process that listens there, or change listen_port",
        io::ErrorKind::AddrNotAvailable => "; listen_addr takes only addresses that this machine has",
        io::ErrorKind::PermissionDenied => "; ports below 1024 and foreign directories need rights that `user` lacks",
        io::ErrorKind::NotFound => "; the directory of unix_socket_dir must exist",
        io::ErrorKind::InvalidInput if call == "unix_socket_dir" => {
            "; the name of a Unix socket may have at most 107 bytes"
        }
        io::ErrorKind::InvalidInput if call.starts_with("tcp_") => "; tcp(7) says which values the kernel takes",
        _ => "",
    }
}

fn refused(name: impl fmt::Display, call: &'static str, source: io::Error) -> ListenError {
    ListenError::Refused { name: name.to_string(), call, source }
}

fn during(call: &'static str) -> impl Fn(io::Error) -> (&'static str, io::Error) {
    move |source| (call, source)
}

#[cfg(test)]
mod tests;
