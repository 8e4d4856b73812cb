//! Where the priority of a request is said: by its route, or by the request itself.

use http::HeaderMap;
use http::header::HeaderName;

use super::shed::Priority;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriorityOf {
    /// The field that may say it.
    pub header: Option<HeaderName>,
    /// Where none does.
    pub otherwise: Priority,
}

impl PriorityOf {
    pub fn of(&self, headers: &HeaderMap) -> Priority {
        let said = self.header.as_ref().and_then(|name| headers.get(name));
        said.and_then(|value| Priority::named(value.as_bytes())).unwrap_or(self.otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_the_header_says_and_else_what_the_route_says() {
        let name = HeaderName::from_static("x-priority");
        let of = PriorityOf { header: Some(name.clone()), otherwise: Priority::Sheddable };
        let said = |text| HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(text))]);
        assert_eq!(of.of(&said("critical")), Priority::Critical);
        assert_eq!(of.of(&said("nonsense")), Priority::Sheddable);
        assert_eq!(of.of(&HeaderMap::new()), Priority::Sheddable);
        assert_eq!(PriorityOf::default().of(&said("critical")), Priority::Default);
    }
}
