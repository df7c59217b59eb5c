use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};

use tempfile::TempDir;

use super::*;

fn options() -> ListenOptions {
    ListenOptions {
        addresses: Vec::new(),
        port: 0,
        backlog: 16,
        reuse_port: false,
        defer_accept: true,
        tcp: TcpOptions::default(),
        unix_dir: String::new(),
        unix_mode: 0o777,
        unix_group: String::new(),
    }
}

fn on_tcp(addresses: &[&str]) -> ListenOptions {
    ListenOptions { addresses: addresses.iter().map(|&address| address.to_owned()).collect(), ..options() }
}

fn on_unix(dir: &TempDir) -> ListenOptions {
    ListenOptions { unix_dir: dir.path().to_str().unwrap().to_owned(), port: 6432, ..options() }
}

fn address(listener: &Listener) -> SocketAddr {
    match &listener.socket {
        ListenSocket::Tcp(socket) => socket.local_addr().unwrap(),
        ListenSocket::Unix(_) => panic!("not TCP"),
    }
}

fn socket_path(dir: &TempDir) -> PathBuf {
    dir.path().join(".s.PGSQL.6432")
}

#[test]
fn the_settings_say_where() {
    let options = ListenOptions::from_settings(&Settings::default());

    assert_eq!((options.addresses.len(), options.port, options.backlog), (0, 6432, 128));
    assert_eq!((options.unix_dir.as_str(), options.unix_mode, options.unix_group.as_str()), ("/tmp", 0o777, ""));
    assert_eq!(options.tcp, TcpOptions::default());
    assert!(options.defer_accept && !options.reuse_port);
}

#[test]
fn a_tcp_listener_is_named_by_the_address_it_got() {
    let listening = listen(&on_tcp(&["127.0.0.1"])).unwrap();

    let listener = &listening.listeners[0];
    assert_eq!(listener.name, address(listener).to_string());
    assert!(listening.warnings.is_empty());
    TcpStream::connect(address(listener)).unwrap();
}

#[test]
fn a_name_and_an_empty_word_are_taken_as_pgbouncer_takes_them() {
    let listening = listen(&on_tcp(&["", "localhost"])).unwrap();

    assert!(listening.listeners.iter().all(|listener| address(listener).ip().is_loopback()));
}

#[test]
fn a_star_is_every_address_there_is() {
    assert_eq!(
        resolve("*", 6432).unwrap(),
        ["0.0.0.0:6432".parse().unwrap(), "[::]:6432".parse().unwrap()] as [SocketAddr; 2]
    );
}

#[test]
fn one_address_of_several_may_fail() {
    let listening = listen(&on_tcp(&["203.0.113.9", "127.0.0.1"])).unwrap();

    assert_eq!(listening.listeners.len(), 1);
    let warning = listening.warnings[0].to_string();
    assert!(
        warning.starts_with("cannot listen on 203.0.113.9:0: bind(): Cannot assign requested address"),
        "{warning}"
    );
}

#[test]
fn no_address_of_several_may_fail_them_all() {
    let error = listen(&on_tcp(&["203.0.113.9", "203.0.113.10"])).unwrap_err().to_string();

    assert!(error.starts_with("failed to listen on any address in listen_addr\n"), "{error}");
    assert!(error.contains("203.0.113.10:0"), "{error}");
}

#[test]
fn a_taken_port_says_what_to_do() {
    let first = listen(&on_tcp(&["127.0.0.1"])).unwrap();
    let port = address(&first.listeners[0]).port();

    let error = listen(&ListenOptions { port, ..on_tcp(&["127.0.0.1"]) }).unwrap_err().to_string();

    assert!(error.contains(&format!("127.0.0.1:{port}: bind(): Address already in use")), "{error}");
    assert!(error.contains("change listen_port"), "{error}");
}

#[test]
fn so_reuseport_lets_two_processes_share_a_port() {
    let options = ListenOptions { reuse_port: true, ..on_tcp(&["127.0.0.1"]) };
    let first = listen(&options).unwrap();

    let port = address(&first.listeners[0]).port();

    listen(&ListenOptions { port, ..options }).unwrap();
}

#[test]
fn a_name_that_does_not_resolve_is_an_error() {
    let error = listen(&on_tcp(&["127.0.0.1", "no such host"])).unwrap_err().to_string();

    assert!(error.starts_with("listen_addr: \"no such host\" is neither an address nor a name"), "{error}");
}

#[test]
fn nowhere_to_listen_is_an_error() {
    assert!(matches!(listen(&options()), Err(ListenError::Nowhere)));
}

#[test]
fn a_unix_socket_has_its_mode_and_its_file_goes_with_it() {
    let dir = TempDir::new().unwrap();
    let path = socket_path(&dir);

    let listening = listen(&ListenOptions { unix_mode: 0o700, ..on_unix(&dir) }).unwrap();

    assert!(listening.listeners[0].is_unix());
    assert_eq!(listening.listeners[0].name, format!("unix:{}", path.display()));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    UnixStream::connect(&path).unwrap();
    drop(listening);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced() {
    let dir = TempDir::new().unwrap();
    drop(UnixListener::bind(socket_path(&dir)).unwrap());

    let _listening = listen(&on_unix(&dir)).unwrap();

    UnixStream::connect(socket_path(&dir)).unwrap();
}

#[test]
fn a_socket_that_somebody_answers_on_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let _first = listen(&on_unix(&dir)).unwrap();

    let error = listen(&on_unix(&dir)).unwrap_err();

    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    UnixStream::connect(socket_path(&dir)).unwrap();
}

#[test]
fn postgres_own_socket_and_foreign_files_are_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(".s.PGSQL.6432.lock"), "").unwrap();
    assert!(matches!(listen(&on_unix(&dir)), Err(ListenError::Locked { .. })));

    fs::remove_file(dir.path().join(".s.PGSQL.6432.lock")).unwrap();
    fs::write(socket_path(&dir), "precious").unwrap();
    assert!(matches!(listen(&on_unix(&dir)), Err(ListenError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(socket_path(&dir)).unwrap(), "precious");
}

#[test]
fn a_successors_socket_file_outlives_us() {
    let dir = TempDir::new().unwrap();
    let first = listen(&on_unix(&dir)).unwrap();
    // Two inodes at once, so that the second cannot be given the number of the first.
    let aside = dir.path().join("aside");
    let _second = UnixListener::bind(&aside).unwrap();
    fs::rename(&aside, socket_path(&dir)).unwrap();

    drop(first);

    assert!(socket_path(&dir).exists());
}

#[test]
fn an_unknown_group_is_named_and_leaves_no_file() {
    let dir = TempDir::new().unwrap();

    let error = listen(&ListenOptions { unix_group: "no-such-group".to_owned(), ..on_unix(&dir) }).unwrap_err();

    assert_eq!(error.to_string(), "unix_socket_group: there is no group \"no-such-group\"");
    assert!(!socket_path(&dir).exists());
}

#[test]
fn a_group_may_be_a_number() {
    let dir = TempDir::new().unwrap();
    let own = rustix::process::getegid().as_raw();

    let _listening = listen(&ListenOptions { unix_group: own.to_string(), ..on_unix(&dir) }).unwrap();

    assert_eq!(fs::metadata(socket_path(&dir)).unwrap().gid(), own);
}

#[test]
fn a_missing_directory_and_an_overlong_name_say_so() {
    let missing = ListenOptions { unix_dir: "/nonexistent/dir".to_owned(), ..options() };
    let long = ListenOptions { unix_dir: format!("/{}", "x".repeat(200)), ..options() };

    let missing = listen(&missing).unwrap_err().to_string();
    let long = listen(&long).unwrap_err().to_string();

    assert!(missing.ends_with("the directory of unix_socket_dir must exist"), "{missing}");
    assert!(long.ends_with("may have at most 107 bytes"), "{long}");
}

#[test]
fn a_tcp_setting_that_the_kernel_refuses_is_named() {
    let tcp = TcpOptions { keepcnt: 1000, ..TcpOptions::default() };

    let refused = listen(&ListenOptions { tcp, ..on_tcp(&["127.0.0.1"]) }).unwrap_err().to_string();

    assert!(refused.contains(": tcp_keepcnt: "), "{refused}");
    assert!(refused.ends_with("; tcp(7) says which values the kernel takes"), "{refused}");
}

#[test]
fn an_abstract_socket_has_no_file_and_is_found_by_its_name() {
    let dir = format!("@pgweir-test-{}", std::process::id());
    let options = ListenOptions { unix_dir: dir.clone(), port: 6432, ..options() };

    let listening = listen(&options).unwrap();

    assert_eq!(listening.listeners[0].name, format!("unix:{dir}/.s.PGSQL.6432"));
    assert!(listening.listeners[0].file.is_none());
    let address = UnixAddr::from_abstract_name(format!("{}/.s.PGSQL.6432", &dir[1..])).unwrap();
    UnixStream::connect_addr(&address).unwrap();
    assert!(matches!(listen(&options), Err(ListenError::InUse { .. })));
}
