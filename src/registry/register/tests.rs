use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
    /// It says that we may not; otherwise what fails may be heard.
    refuses: Cell<bool>,
    /// How long it takes to hear and to answer. What was broken off it hears all the same.
    takes: Cell<Duration>,
    /// The ports of what stands in it, by id, or by service and id.
    stands: Rc<RefCell<BTreeMap<String, u16>>>,
    by_service: Cell<bool>,
}

type Entries = BTreeMap<String, u16>;

impl Script {
    async fn ask(
        &self,
        what: String,
        does: impl FnOnce(&mut Entries) + 'static,
    ) -> Result<(), Error> {
        self.asked.borrow_mut().push(what);
        if self.fails.get() {
            let reason = if self.refuses.get() { Reason::Refused } else { Reason::Failed };
            return Err(Error::new(reason, "told to"));
        }
        let (takes, stands) = (self.takes.get(), self.stands.clone());
        let heard = tokio::task::spawn_local(async move {
            sleep(takes).await;
            does(&mut stands.borrow_mut());
        });
        heard.await.expect("it hears");
        Ok(())
    }

    fn key(&self, ours: &Announcement) -> String {
        match self.by_service.get() {
            true => format!("{}/{}", ours.service, ours.id),
            false => ours.id.clone(),
        }
    }

    fn take(&self) -> Vec<String> {
        self.asked.take()
    }

    fn stands(&self) -> Vec<(String, u16)> {
        self.stands.borrow().clone().into_iter().collect()
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

    fn register<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<(), Error>> {
        let (key, port) = (self.key(ours), ours.port);
        Box::pin(self.ask(format!("register {health:?}"), move |all| all.extend([(key, port)])))
    }

    fn renew<'a>(
        &'a self,
        _: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move {
            self.ask(format!("renew {health:?}"), |_| {}).await?;
            Ok(if self.forgets.take() { Renewal::Forgotten } else { Renewal::Kept })
        })
    }

    fn is_one(&self, one: &Announcement, other: &Announcement) -> bool {
        self.key(one) == self.key(other)
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        let key = self.key(ours);
        Box::pin(self.ask("deregister".to_owned(), move |all| all.retain(|it, _| *it != key)))
    }
}

fn ours() -> Announcement {
    Announcement::plain("users", "users-1")
}

/// What is wanted, and what is told of it.
#[derive(Clone)]
struct Hand {
    wanted: watch::Sender<Wanted>,
    told: Rc<Cell<Option<bool>>>,
}

impl Hand {
    fn wish(&self, wish: Wish) {
        self.wanted.send_modify(|wanted| wanted.wish = wish);
    }

    fn want(&self, ours: Announcement) {
        self.wanted.send_modify(|wanted| wanted.ours = ours);
    }
}

/// Goes through `steps` with an announcement, in virtual time.
fn heard<F: Future<Output = ()>>(steps: impl FnOnce(Rc<Script>, Hand) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let script = Rc::new(Script::default());
        let told = Rc::new(Cell::new(None));
        let tells = told.clone();
        let (wanted, follows) = watch::channel(Wanted {
            registry: script.clone(),
            ours: ours(),
            wish: Wish::NotYet,
            told: Rc::new(move |is_there| tells.set(is_there)),
        });
        let task = tokio::task::spawn_local(announce(follows));
        let hand = Hand { wanted, told };
        steps(script.clone(), hand.clone()).await;
        script.fails.set(false);
        hand.wish(Wish::Gone);
        task.await.expect("it ends");
        assert_eq!((script.stands(), hand.told.get()), (vec![], None));
    });
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[test]
fn an_app_is_announced_when_it_is_well_renewed_and_taken_back() {
    heard(|script, hand| async move {
        seconds(60).await;
        assert!(script.take().is_empty(), "it was never well");
        hand.wish(Wish::Here(Health::Passing));
        seconds(11).await;
        assert_eq!(script.take(), ["register Passing", "renew Passing", "renew Passing"]);
        hand.wish(Wish::Here(Health::Critical));
        seconds(1).await;
        assert_eq!(script.take(), ["renew Critical"], "at once");
        hand.wish(Wish::Gone);
        seconds(1).await;
        assert_eq!(script.take(), ["deregister"]);
    });
}

#[test]
fn an_app_that_was_never_announced_is_not_taken_back() {
    heard(|script, hand| async move {
        hand.wish(Wish::Gone);
        seconds(1).await;
        assert!(script.take().is_empty());
    });
}

/// What is wanted is behind a lock, and who wants it is on our own thread.
#[test]
fn who_wants_something_else_is_not_held_up_by_what_is_under_way() {
    heard(|script, hand| async move {
        script.takes.set(Duration::from_secs(3));
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        assert_eq!(script.take(), ["register Passing"]);
        hand.wish(Wish::Gone);
        sleep(FINISH / 2).await;
        // It waits for what is under way still: with a lock that it held this would have no end.
        hand.wish(Wish::Gone);
        script.takes.set(Duration::ZERO);
        seconds(10).await;
    });
}

#[test]
fn a_registry_that_forgets_is_told_at_once() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.forgets.set(true);
        script.take();
        seconds(5).await;
        assert_eq!(script.take(), ["renew Passing", "register Passing"]);
    });
}

#[test]
fn what_fails_is_tried_again_and_again() {
    heard(|script, hand| async move {
        script.fails.set(true);
        hand.wish(Wish::Here(Health::Passing));
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
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(610).await;
        let anew = script.take().iter().filter(|asked| *asked == "register Passing").count();
        assert!((2..=3).contains(&anew), "{anew}");
    });
}

#[test]
fn what_hangs_is_not_waited_for_before_it_is_taken_back() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.takes.set(Duration::from_secs(3));
        hand.wish(Wish::Here(Health::Critical));
        seconds(1).await;
        assert_eq!(script.take(), ["register Passing", "renew Critical"]);
        script.takes.set(Duration::ZERO);
        hand.wish(Wish::Gone);
        tokio::task::yield_now().await;
        seconds(0).await;
        assert_eq!((script.take(), script.stands()), (vec!["deregister".to_owned()], vec![]));
    });
}

#[test]
fn an_announcement_that_is_heard_late_does_not_outlive_its_end() {
    heard(|script, hand| async move {
        script.takes.set(Duration::from_secs(4));
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.takes.set(Duration::ZERO);
        hand.wish(Wish::Gone);
        seconds(2).await;
        assert_eq!(script.take(), ["register Passing", "deregister"], "it was given a second");
        seconds(2).await;
        assert_eq!(script.stands().len(), 1, "it was heard after all");
        seconds(5).await;
        assert_eq!((script.take(), script.stands()), (vec!["deregister".to_owned()], vec![]));
    });
}

#[test]
fn what_cannot_be_taken_back_is_tried_again_until_it_is() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.fails.set(true);
        hand.wish(Wish::Gone);
        seconds(600).await;
        assert_eq!((script.stands().len(), hand.told.get()), (1, Some(true)));
        script.take();
        script.fails.set(false);
        seconds(6).await;
        assert_eq!((script.take(), script.stands()), (vec!["deregister".to_owned()], vec![]));
    });
}

#[test]
fn one_that_is_wanted_again_while_it_is_taken_back_stays() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.takes.set(Duration::from_secs(3));
        hand.wish(Wish::Gone);
        seconds(1).await;
        hand.wish(Wish::Here(Health::Passing));
        seconds(6).await;
        assert_eq!(script.take(), ["register Passing", "deregister", "register Passing"]);
        assert_eq!((script.stands().len(), hand.told.get()), (1, Some(true)));
    });
}

#[test]
fn what_is_announced_anew_waits_for_what_is_under_way() {
    heard(|script, hand| async move {
        script.takes.set(Duration::from_secs(3));
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        hand.want(Announcement { port: 15007, ..ours() });
        script.takes.set(Duration::ZERO);
        seconds(3).await;
        assert_eq!(script.take(), ["register Passing", "register Passing"]);
        assert_eq!(script.stands(), [("users-1".to_owned(), 15007)]);
    });
}

#[test]
fn an_announcement_that_got_no_answer_is_not_the_last_word() {
    heard(|script, hand| async move {
        // It hears after 14 s what was given up after 10.
        script.takes.set(Duration::from_secs(14));
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.takes.set(Duration::ZERO);
        hand.want(Announcement { port: 15007, ..ours() });
        seconds(20).await;
        assert_eq!(script.stands(), [("users-1".to_owned(), 15007)]);
    });
}

#[test]
fn another_name_is_another_entry() {
    for by_service in [true, false] {
        heard(|script, hand| async move {
            script.by_service.set(by_service);
            hand.wish(Wish::Here(Health::Passing));
            seconds(1).await;
            script.take();
            hand.want(Announcement { service: "people".into(), ..ours() });
            seconds(1).await;
            let (asked, key) = match by_service {
                true => (vec!["register Passing", "deregister"], "people/users-1"),
                // It was the same entry: to take it back would take back what it is now.
                false => (vec!["register Passing"], "users-1"),
            };
            assert_eq!(script.take(), asked);
            assert_eq!(script.stands(), [(key.to_owned(), 15006)]);
        });
    }
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.fails.set(true);
        hand.want(Announcement { id: "users-2".to_owned(), ..ours() });
        seconds(30).await;
        script.fails.set(false);
        seconds(6).await;
        assert_eq!(script.stands(), [("users-2".to_owned(), 15006)]);
    });
}

#[test]
fn another_registry_of_the_same_place_replaces_and_takes_nothing_back() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.take();
        let other = Rc::new(Script { stands: script.stands.clone(), ..Script::default() });
        hand.wanted.send_modify(|wanted| wanted.registry = other.clone());
        seconds(1).await;
        assert!(script.take().is_empty());
        assert_eq!(other.take(), ["register Passing"]);
    });
}

#[test]
fn no_wait_is_longer_than_a_renewal_and_a_lease_that_is_lost_is_told() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        assert_eq!(hand.told.get(), Some(true));
        script.fails.set(true);
        seconds(600).await;
        assert_eq!(hand.told.get(), Some(false), "nobody has heard us for so long");
        script.take();
        script.fails.set(false);
        seconds(5).await;
        assert_eq!(script.take().first().map(String::as_str), Some("register Passing"));
    });
}

/// Another way to the registry of `script`.
fn another(script: &Rc<Script>) -> Rc<Script> {
    Rc::new(Script { stands: script.stands.clone(), ..Script::default() })
}

#[test]
fn what_stands_is_renewed_and_taken_back_by_who_announced_it() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.take();
        let other = another(&script);
        other.fails.set(true);
        other.refuses.set(true);
        hand.wanted.send_modify(|wanted| wanted.registry = other.clone());
        seconds(60).await;
        assert!(other.take().iter().all(|asked| asked == "register Passing"));
        let renewed = script.take();
        assert!(renewed.len() >= 12 && renewed.iter().all(|asked| asked == "renew Passing"));
        assert_eq!(hand.told.get(), Some(true), "it stands there");
        hand.wish(Wish::Here(Health::Critical));
        seconds(1).await;
        assert_eq!(script.take().first().map(String::as_str), Some("renew Critical"));
        other.take();
        hand.wish(Wish::Gone);
        seconds(1).await;
        assert_eq!(other.take(), ["deregister"], "it may lead there again");
        assert_eq!((script.take(), script.stands()), (vec!["deregister".to_owned()], vec![]));
    });
}

#[test]
fn who_announces_it_at_last_is_asked_alone() {
    heard(|script, hand| async move {
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        let other = another(&script);
        other.fails.set(true);
        hand.wanted.send_modify(|wanted| wanted.registry = other.clone());
        seconds(30).await;
        other.fails.set(false);
        seconds(11).await;
        script.take();
        other.take();
        seconds(11).await;
        assert!(script.take().is_empty() && !other.take().is_empty());
        // What was there before leads nowhere by now.
        script.fails.set(true);
        hand.wish(Wish::Gone);
        seconds(1).await;
        assert_eq!((script.take(), script.stands()), (vec![], vec![]));
    });
}

#[test]
fn what_was_refused_is_not_taken_back() {
    heard(|script, hand| async move {
        script.fails.set(true);
        script.refuses.set(true);
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.take();
        hand.wish(Wish::Gone);
        seconds(1).await;
        assert_eq!((script.take(), hand.told.get()), (vec![], None));
    });
}

#[test]
fn what_stands_there_of_an_app_that_is_not_there_any_more_is_taken_back() {
    heard(|script, hand| async move {
        script.by_service.set(true);
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        script.take();
        hand.wanted.send_modify(|wanted| {
            wanted.ours.service = "people".into();
            wanted.wish = Wish::NotYet;
        });
        seconds(60).await;
        assert_eq!((script.take(), script.stands()), (vec!["deregister".to_owned()], vec![]));
        assert_eq!(hand.told.get(), Some(false));
        hand.wish(Wish::Here(Health::Passing));
        seconds(1).await;
        assert_eq!(script.stands(), [("people/users-1".to_owned(), 15006)]);
    });
}
