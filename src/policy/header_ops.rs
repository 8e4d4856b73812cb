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

    /// Nothing if there is nothing to change.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// As if these were applied and then `inner`, which therefore wins.
    pub fn then(&self, inner: &Self) -> Self {
        let stays = |name: &HeaderName| {
            !inner.remove.contains(name) && !inner.set.iter().any(|(set, _)| set == name)
        };
        let joined = |outer: &[(HeaderName, HeaderValue)], inner: &[_]| {
            let outer = outer.iter().filter(|(name, _)| stays(name));
            outer.chain(inner).cloned().collect()
        };
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

    #[test]
    fn joined_is_as_one_after_the_other() {
        let names = ["a", "b", "c"].map(HeaderName::from_static);
        let values = ["1", "2"].map(HeaderValue::from_static);
        // Each name in each of the lists or in none.
        let ops = |bits: usize, value: &HeaderValue| {
            let of = |list: usize| {
                let names = names.iter().enumerate();
                names
                    .filter(move |(at, _)| bits / 4usize.pow(*at as u32) % 4 == list)
                    .map(|(_, name)| name.clone())
            };
            let pairs = |list| of(list).map(|name| (name, value.clone())).collect();
            HeaderOps { remove: of(1).collect(), set: pairs(2), add: pairs(3) }
        };
        for (outer, inner) in (0..64).flat_map(|a| (0..64).map(move |b| (a, b))) {
            let (outer, inner) = (ops(outer, &values[0]), ops(inner, &values[1]));
            let mut headers = HeaderMap::new();
            headers.append(&names[0], HeaderValue::from_static("old"));
            let mut joined = headers.clone();
            outer.apply(&mut headers);
            inner.apply(&mut headers);
            outer.then(&inner).apply(&mut joined);
            assert_eq!(joined, headers, "{outer:?} {inner:?}");
        }
    }
}
