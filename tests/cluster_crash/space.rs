//! The network in which a process runs and its callers call: this machine's, or a namespace.

use std::path::Path;
use std::process::Command;

/// One network; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Space(Option<String>);

impl Space {
    /// That of this process.
    pub(crate) const fn own() -> Self {
        Self(None)
    }

    /// The namespace of this name.
    pub(crate) const fn named(name: String) -> Self {
        Self(Some(name))
    }

    /// Runs `program` there.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match &self.0 {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            },
        }
    }

    /// This thread makes its sockets there from now on.
    pub(crate) fn enter(&self) {
        if let Some(name) = &self.0 {
            let file = std::fs::File::open(Path::new("/var/run/netns").join(name)).unwrap();
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
                .unwrap();
        }
    }
}
