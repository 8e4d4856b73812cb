//! The registries that the configuration lists.

use std::rc::Rc;

use super::standing::RegistryStanding;
use crate::registry::settings::{Kind, Settings};
use crate::registry::{self, Registry};

/// One of them. It is the same for as long as it is listed, wherever it stands in the list.
#[derive(Clone)]
pub struct Listed {
    pub kind: Kind,
    pub registry: Rc<dyn Registry>,
    pub standing: RegistryStanding,
    /// No other in the list has it.
    name: String,
}

impl Listed {
    /// Those of `settings`; of those that were listed `before` the same.
    pub fn all(settings: &[Settings], before: &[Self]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::with_capacity(settings.len());
        for settings in settings {
            let known = before.iter().find(|it| it.kind == settings.kind).cloned();
            let mut listed = known.unwrap_or_else(|| Self::new(settings));
            listed.name = unique(listed.registry.name(), &all);
            listed.standing.set_name(&listed.name);
            all.push(listed);
        }
        all
    }

    /// Whether `all` are those of `settings`, each at its place.
    pub fn are(all: &[Self], settings: &[Settings]) -> bool {
        all.iter().map(|it| &it.kind).eq(settings.iter().map(|it| &it.kind))
    }

    fn new(settings: &Settings) -> Self {
        Self {
            kind: settings.kind.clone(),
            registry: registry::make(settings),
            standing: RegistryStanding::default(),
            name: String::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `name`, with a number where one of `others` has it already: two datacenters may be asked by one agent.
fn unique(name: &str, others: &[Listed]) -> String {
    let is_free = |name: &String| others.iter().all(|other| other.name != *name);
    let numbered = (2..).map(|number| format!("{name} ({number})"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::{Advertise, Directory};
    use std::time::Duration;

    fn directory(path: &str) -> Settings {
        let directory = Directory { path: Some(path.into()), ttl: Duration::from_secs(10) };
        Settings { kind: Kind::Directory(directory), advertise: None }
    }

    #[test]
    fn what_stays_in_the_list_stays_the_same_wherever_it_stands() {
        let before = Listed::all(&[directory("/a"), directory("/b")], &[]);
        assert_eq!((before[0].name(), before[1].name()), ("directory", "directory (2)"));
        before[1].standing.registered(Some(true));
        let advertised = Settings { advertise: Some(Advertise::default()), ..directory("/b") };
        let now = Listed::all(&[advertised, directory("/c")], &before);
        assert!(Rc::ptr_eq(&now[0].registry, &before[1].registry));
        assert!(!Rc::ptr_eq(&now[1].registry, &before[0].registry));
        assert_eq!((now[0].name(), now[1].name()), ("directory", "directory (2)"));
        // What was known of it is known still, also by those who knew it before.
        before[1].standing.registered(Some(false));
        assert_eq!(now[0].standing.get().is_registered, Some(false));
        assert_eq!(now[1].standing.get().is_registered, None);
    }

    #[test]
    fn how_our_app_is_announced_makes_no_other_list() {
        let all = Listed::all(&[directory("/a"), directory("/b")], &[]);
        let advertised = Settings { advertise: Some(Advertise::default()), ..directory("/a") };
        assert!(Listed::are(&all, &[advertised, directory("/b")]));
        assert!(!Listed::are(&all, &[directory("/b"), directory("/a")]));
        assert!(!Listed::are(&all, &[directory("/a")]));
    }
}
