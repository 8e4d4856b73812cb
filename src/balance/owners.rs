//! Which endpoint has each slot of a table that is read at random.

/// In small numbers where they suffice, so that more of it stays in the caches.
#[derive(Debug)]
pub(super) enum Owners {
    Small(Box<[u16]>),
    Large(Box<[u32]>),
}

impl Owners {
    /// Of each slot the index of one of so many endpoints.
    pub(super) fn new(owners: impl Iterator<Item = u32>, endpoints: usize) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        match endpoints {
            0..=0x1_0000 => Self::Small(owners.map(|owner| owner as u16).collect()),
            _ => Self::Large(owners.collect()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small(owners) => owners.len(),
            Self::Large(owners) => owners.len(),
        }
    }

    pub(super) fn of(&self, slot: usize) -> usize {
        match self {
            Self::Small(owners) => usize::from(owners[slot]),
            Self::Large(owners) => owners[slot] as usize,
        }
    }
}
