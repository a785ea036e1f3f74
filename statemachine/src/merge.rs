//! Which sections to merge, and merging them.

use core::ops::Range;
use std::rc::Rc;

use bowline_env::Env;

use crate::store::Section;

/// The adjacent sections (newest first) to merge now, if any.
pub fn pick<E: Env>(_sections: &[Rc<Section<E>>]) -> Option<Range<usize>> {
    unimplemented!()
}
