//! `--ping`, the question of health checks.

use crate::support::proxy::bare;
use crate::support::{self, Setup};

#[test]
fn a_health_check_is_answered_and_leaves_no_line_in_the_log() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().start();
    let file = proxy.dir.join("pgbouncer.ini").display().to_string();

    // It waits three seconds for an answer, which may be too short for a busy machine.
    let said = support::eventually("the pooler answers", || {
        let ping = bare(&["--ping", &file]);
        (ping.status.code() == Some(0)).then(|| String::from_utf8_lossy(&ping.stdout).into_owned())
    });

    assert_eq!(said, format!("127.0.0.1:{} answers\n", proxy.port));
    // A line about the visit would be there before the next visitor is let in.
    let _staying = proxy.client();
    assert!(!proxy.log().contains("closing because: "), "{}", proxy.log());
}

#[test]
fn a_health_check_fails_where_nobody_listens_any_more() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().start();
    let file = proxy.dir.join("pgbouncer.ini").display().to_string();
    let _staying = proxy.client();

    proxy.signal(rustix::process::Signal::TERM);

    support::eventually("the health check fails while the last client is waited for", || {
        let ping = bare(&["--ping", &file]);
        let said = String::from_utf8_lossy(&ping.stdout).into_owned();
        (ping.status.code() == Some(1) && said.contains("no answer")).then_some(())
    });
    assert!(proxy.try_wait().is_none(), "it still serves its client");
}
