//! The append-only log of a core: one write and one sync per turn cover every shard.
