use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::{Context, Waker};

use tokio::net::{TcpListener, TcpStream};

use super::*;

fn origin(address: u8, user: &str) -> Origin {
    Origin { source: Source::Network(IpAddr::from([10, 0, 0, address])), user: Some(user.into()) }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Work of so many turns, each of them counted.
fn work(turns: usize, had: &Arc<AtomicUsize>) -> impl FnMut() -> Option<&'static str> + Send + 'static {
    let had = had.clone();
    let mut left = turns;
    move || {
        had.fetch_add(1, SeqCst);
        left -= 1;
        (left == 0).then_some("done")
    }
}

#[test]
fn work_that_nobody_waits_for_any_more_has_no_further_turn() {
    let compute = Compute::new(0);
    let had = Arc::new(AtomicUsize::new(0));
    {
        let mut running = pin!(compute.run(origin(1, "ann"), work(1_000_000, &had)));
        assert!(poll(running.as_mut()).is_pending());
        assert!(compute.turn() && compute.turn());
        assert_eq!(compute.waiting(), 1);
    }

    assert_eq!(compute.waiting(), 0, "it is dropped with who waited for it");
    assert!(!compute.turn());
    assert_eq!(had.load(SeqCst), 2);
}

#[test]
fn work_that_is_left_during_its_turn_is_not_put_back() {
    let compute = Compute::new(0);
    let (begun, has_begun) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let endless = move || {
        begun.send(()).unwrap();
        goes.recv().unwrap();
        None::<()>
    };
    let mut running = Box::pin(compute.run(origin(1, "ann"), endless));
    assert!(poll(running.as_mut()).is_pending());

    std::thread::scope(|scope| {
        scope.spawn(|| compute.turn());
        has_begun.recv().unwrap();
        drop(running);
        go.send(()).unwrap();
    });

    assert_eq!(compute.waiting(), 0);
}

#[test]
fn a_short_login_is_done_while_a_crowd_wants_turns_without_end() {
    let compute = Compute::new(0);
    let had = Arc::new(AtomicUsize::new(0));
    let mut crowd: Vec<_> = (0..300)
        .map(|number| Box::pin(compute.run(origin(1, &format!("user{number}")), work(usize::MAX, &had))))
        .collect();
    assert!(crowd.iter_mut().all(|login| poll(login.as_mut()).is_pending()));
    let own = Arc::new(AtomicUsize::new(0));
    let mut login = pin!(compute.run(origin(2, "ann"), work(4, &own)));
    assert!(poll(login.as_mut()).is_pending());

    let mut turns = 0;
    while poll(login.as_mut()).is_pending() {
        compute.turn();
        turns += 1;
        assert!(turns <= 20, "{} of its own", own.load(SeqCst));
    }

    assert_eq!(own.load(SeqCst), 4);
}

#[tokio::test]
async fn threads_do_it_and_go_on_after_a_panic() {
    let compute = Compute::new(2);
    let had = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let failed = compute.run(origin(1, "ann"), || -> Option<()> { panic!("a test panics") }).await;
        assert!(matches!(failed, Err(NotComputed::Failed(_))), "{failed:?}");
    }

    let all = (0..50u8).map(|number| compute.run(origin(number, "ann"), work(7, &had)));
    let mut all: Vec<_> = all.map(Box::pin).collect();
    for login in &mut all {
        assert_eq!(login.await.unwrap(), "done");
    }

    assert_eq!(had.load(SeqCst), 50 * 7);
    assert!(compute.owner.shared.lock().threads <= 2);
}

#[tokio::test]
async fn threads_end_with_the_last_handle() {
    struct Last(mpsc::Sender<()>);
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    let compute = Compute::new(1);
    let (last, ended) = mpsc::channel();
    let mut last = Some(Last(last));
    let begins = move || {
        LAST.set(last.take());
        Some(())
    };
    compute.run(origin(1, "ann"), begins).await.unwrap();

    drop(compute);

    ended.recv().expect("the thread says so when it ends");
}

#[tokio::test]
async fn work_ends_when_its_client_hangs_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut stream = Stream::Tcp(listener.accept().await.unwrap().0);
    let compute = Compute::new(0);
    let had = Arc::new(AtomicUsize::new(0));
    let mut inbox = Inbox::default();
    client.try_write(b"said meanwhile").unwrap();
    drop(client);

    let outcome = compute.run_for(origin(1, "ann"), &mut stream, &mut inbox, work(1, &had)).await;

    assert!(matches!(outcome, Err(NotComputed::Gone)));
    assert_eq!(inbox.fresh(), b"said meanwhile");
    assert!(!compute.turn());
    assert_eq!(had.load(SeqCst), 0);
}
