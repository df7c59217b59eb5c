//! Who gets which server, and when: the three modes, the sizes, the order.

use crate::support::{Client, Gate, Login, Postgres, Proxy, Script, Setup, eventually};

#[test]
fn clients_share_one_server_transaction_by_transaction() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());

    let pids = [one.pid(), other.pid(), one.pid(), other.pid()];

    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(Postgres::shared().backends(&proxy.role), 1);
}
