//! The bound on connections that have not said who they are.

use core::cell::RefCell;
use core::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Connections before their hello, in all.
const COUNT_MAX: usize = 64;
/// Connections before their hello, from one address.
const PER_ADDRESS_MAX: usize = 16;

/// Counts the accepted connections whose hello is not read yet: at most 64, and 16 from one
/// address. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// One address a connection, in no order.
    from: Rc<RefCell<Vec<IpAddr>>>,
}

impl Pending {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a connection until the guard is dropped. None: a limit is reached, close the
    /// connection. At most 64 comparisons.
    #[must_use]
    pub fn enter(&self, from: SocketAddr) -> Option<PendingGuard> {
        let address = from.ip().to_canonical();
        let mut all = self.from.borrow_mut();
        let same = all.iter().filter(|its| **its == address).count();
        if COUNT_MAX <= all.len() || PER_ADDRESS_MAX <= same {
            return None;
        }
        all.push(address);
        Some(PendingGuard { from: Rc::clone(&self.from), address })
    }

    /// How many are counted now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.from.borrow().len()
    }
}

/// One counted connection; it counts until this is dropped.
#[derive(Debug)]
#[must_use = "a connection counts while its guard lives"]
pub struct PendingGuard {
    from: Rc<RefCell<Vec<IpAddr>>>,
    address: IpAddr,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let mut all = self.from.borrow_mut();
        if let Some(at) = all.iter().position(|its| *its == self.address) {
            all.swap_remove(at);
        }
    }
}
