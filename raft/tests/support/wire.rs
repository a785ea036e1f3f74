//! What nodes of the small world say, and the lane it is on its way in.

use std::hash::{Hash, Hasher};

/// Messages on their way in one direction of a lane.
const WIRE: usize = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Say {
    #[default]
    Nothing,
    Ask {
        sent: u64,
    },
    Granted {
        epoch: u32,
        nanos: u64,
        echo: u64,
    },
    Append {
        term: u8,
    },
    Taken {
        term: u8,
        support: u32,
    },
    Vote {
        term: u8,
    },
    Voted {
        term: u8,
    },
    Release {
        term: u8,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    says: [Say; WIRE],
    len: u8,
}

impl Hash for Wire {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.len);
        self.says[..usize::from(self.len)].iter().for_each(|say| say.hash(state));
    }
}

impl Wire {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_full(&self) -> bool {
        usize::from(self.len) == WIRE
    }

    pub fn push(&mut self, say: Say) {
        if !self.is_full() {
            self.says[usize::from(self.len)] = say;
            self.len += 1;
        }
    }

    pub fn pop(&mut self) -> Say {
        let first = self.says[0];
        self.says.rotate_left(1);
        self.says[WIRE - 1] = Say::Nothing;
        self.len -= 1;
        first
    }
}
