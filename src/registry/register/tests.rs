use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::task::LocalSet;

use super::super::{Task, Tell};
use super::*;

/// A registry that writes down what it is asked, and answers as it is told.
#[derive(Default)]
struct Script {
    asked: RefCell<Vec<String>>,
    forgets: Cell<bool>,
    fails: Cell<bool>,
}

impl Script {
    fn ask(&self, what: String) -> Result<(), Error> {
        self.asked.borrow_mut().push(what);
        match self.fails.get() {
            true => Err(Error::new(Reason::Failed, "told to")),
            false => Ok(()),
        }
    }

    fn take(&self) -> Vec<String> {
        self.asked.take()
    }
}

impl Registry for Script {
    fn name(&self) -> &str {
        "script"
    }

    fn watch(self: Rc<Self>, _: Arc<str>, _: Tell) -> Task<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn renewal(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn register<'a>(&'a self, _: &'a Announcement, health: Health) -> Task<'a, Result<(), Error>> {
        Box::pin(async move { self.ask(format!("register {health:?}")) })
    }

    fn renew<'a>(
        &'a self,
        _: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move {
            self.ask(format!("renew {health:?}"))?;
            Ok(if self.forgets.take() { Renewal::Forgotten } else { Renewal::Kept })
        })
    }

    fn deregister<'a>(&'a self, _: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move { self.ask("deregister".to_owned()) })
    }
}

fn ours() -> Announcement {
    Announcement {
        service: "users".into(),
        id: "users-1".to_owned(),
        address: None,
        port: 15006,
        metrics_port: None,
        version: None,
        zone: None,
        weight: 1,
        tags: vec![],
        metadata: Default::default(),
    }
}

/// What the registry hears while `steps` goes on, in virtual time.
fn heard<F: Future<Output = ()>>(steps: impl FnOnce(Rc<Script>, watch::Sender<Wish>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let script = Rc::new(Script::default());
        let (wish, wished) = watch::channel(Wish::NotYet);
        let task = tokio::task::spawn_local(announce(script.clone(), ours(), wished, |_| {}));
        steps(script, wish.clone()).await;
        wish.send_replace(Wish::Gone);
        task.await.expect("it ends");
    });
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[test]
fn an_app_is_announced_when_it_is_well_renewed_and_taken_back() {
    heard(|script, wish| async move {
        seconds(60).await;
        assert!(script.take().is_empty(), "it was never well");
        wish.send_replace(Wish::Here(Health::Passing));
        seconds(11).await;
        assert_eq!(script.take(), ["register Passing", "renew Passing", "renew Passing"]);
        wish.send_replace(Wish::Here(Health::Critical));
        seconds(1).await;
        assert_eq!(script.take(), ["renew Critical"], "at once");
        wish.send_replace(Wish::Gone);
        seconds(1).await;
        assert_eq!(script.take(), ["deregister"]);
    });
}

#[test]
fn an_app_that_was_never_announced_is_not_taken_back() {
    heard(|script, wish| async move {
        wish.send_replace(Wish::Gone);
        seconds(1).await;
        assert!(script.take().is_empty());
    });
}

#[test]
fn a_registry_that_forgets_is_told_at_once() {
    heard(|script, wish| async move {
        wish.send_replace(Wish::Here(Health::Passing));
        seconds(1).await;
        script.forgets.set(true);
        script.take();
        seconds(5).await;
        assert_eq!(script.take(), ["renew Passing", "register Passing"]);
    });
}

#[test]
fn what_fails_is_tried_again_and_again() {
    heard(|script, wish| async move {
        script.fails.set(true);
        wish.send_replace(Wish::Here(Health::Passing));
        seconds(60).await;
        let tries = script.take().len();
        assert!((6..=30).contains(&tries), "{tries}");
        script.fails.set(false);
        seconds(11).await;
        assert_eq!(script.take()[0], "register Passing");
        // A renewal that fails is a renewal still: the lease may be good.
        script.fails.set(true);
        seconds(6).await;
        assert!(script.take().iter().all(|asked| asked == "renew Passing"));
    });
}

#[test]
fn it_is_announced_anew_from_time_to_time() {
    heard(|script, wish| async move {
        wish.send_replace(Wish::Here(Health::Passing));
        seconds(610).await;
        let anew = script.take().iter().filter(|asked| *asked == "register Passing").count();
        assert!((2..=3).contains(&anew), "{anew}");
    });
}
