//! Changes to headers that a route asks for.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Applied in the order remove, set, add.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderOps {
    pub remove: Vec<HeaderName>,
    /// Replaces every value that is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Keeps what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderOps {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }

    /// The operations of the outer scope first, then those of `inner`, which therefore win.
    pub fn then(&self, inner: &Self) -> Self {
        let joined = |a: &[_], b: &[_]| a.iter().chain(b).cloned().collect();
        Self {
            remove: self.remove.iter().chain(&inner.remove).cloned().collect(),
            set: joined(&self.set, &inner.set),
            add: joined(&self.add, &inner.add),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remove_then_set_then_add() {
        let (a, b) = (HeaderName::from_static("a"), HeaderName::from_static("b"));
        let value = HeaderValue::from_static;
        let ops = HeaderOps {
            remove: vec![a.clone()],
            set: vec![(b.clone(), value("set"))],
            add: vec![(a.clone(), value("1")), (b.clone(), value("2"))],
        };
        let mut headers = HeaderMap::new();
        headers.append(&a, value("old"));
        headers.append(&b, value("old"));
        headers.append(&b, value("older"));
        ops.apply(&mut headers);
        assert_eq!(headers.get_all(&a).iter().collect::<Vec<_>>(), ["1"]);
        assert_eq!(headers.get_all(&b).iter().collect::<Vec<_>>(), ["set", "2"]);
    }
}
