//! Kubernetes, by its EndpointSlices. Services of a namespace that are called are followed together, some dozens by
//! one list and one watch, so that a sidecar costs the API server a connection or two. Nobody is announced there:
//! Kubernetes does it, by the pod's readiness.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>

mod asking;
mod group;
mod slices;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::{Registry, Task, Tell, settings};
use asking::Asking;
use group::Group;
use slices::{Family, Wish};

pub struct Kubernetes {
    name: String,
    wish: Wish,
    asking: Asking,
    groups: RefCell<Vec<Rc<Group>>>,
}

impl Kubernetes {
    pub fn new(settings: &settings::Kubernetes) -> Self {
        let named = settings.namespace.as_ref().or(settings.context.as_ref());
        let name = named.map_or("kubernetes".to_owned(), |named| format!("kubernetes {named}"));
        let wish = Wish {
            port: settings.port.clone(),
            zone: settings.zone.clone(),
            family: Family::preferred(),
        };
        let asking = Asking::new(settings.clone());
        Self { name, wish, asking, groups: RefCell::default() }
    }
}

/// Name and namespace of a service: `users`, `users.shop`.
fn split(service: &str) -> (&str, Option<&str>) {
    service.split_once('.').map_or((service, None), |(name, namespace)| (name, Some(namespace)))
}

/// Whether services and namespaces may be called so (RFC 1123).
fn is_label(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Registry for Kubernetes {
    fn name(&self) -> &str {
        &self.name
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let (name, namespace) = split(&service);
            if !is_label(name) || !namespace.is_none_or(is_label) {
                // Kubernetes has no such service, and would refuse the question for all that are asked for beside.
                tell.instances(Vec::new());
                return std::future::pending().await;
            }
            let (mut told, _member) = group::join(&self, name, namespace);
            loop {
                let last = told.borrow_and_update().clone();
                if let Some(last) = last {
                    tell.heard(last.map(|instances| instances.to_vec()), &mut told).await;
                }
                // It is a member of the group, which has the sender.
                if told.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}
