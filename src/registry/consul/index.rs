//! Where a blocking query goes on.

/// The `X-Consul-Index` of the last answer, by the rules that Consul's documentation has for clients: what goes
/// back begins anew, and 0 would not wait.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Index(u64);

impl Index {
    /// 0 asks for what there is now.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Takes that of an answer; one without any makes the next question begin anew.
    pub fn follow(&mut self, told: Option<u64>) {
        self.0 = match told {
            None => 0,
            Some(told) if told < self.0 => 0,
            Some(told) => told.max(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_begins_anew_when_it_went_back() {
        let mut index = Index::default();
        for (told, then) in [
            (Some(7), 7),
            (Some(7), 7),
            (Some(9), 9),
            (Some(8), 0),
            (Some(8), 8),
            (None, 0),
            (Some(0), 1),
            (Some(0), 0),
        ] {
            index.follow(told);
            assert_eq!(index.get(), then, "{told:?}");
        }
    }
}
