//! What the runs reached, as counts.

macro_rules! cover {
    ($($name:ident),* $(,)?) => {
        /// Counts of what happened, summed over runs.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Cover { $(pub $name: u64),* }

        impl Cover {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Name and count of each.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

cover! {
    steps, passes, messages, false_messages, no_room_verdicts, events_of_world,
    elections, pre_campaigns, step_downs, no_quorum_step_downs,
    commits, writes_acked, rejected_proposals,
    truncations, bad_checksums, log_refusals,
    snapshots_wanted, snapshots_installed, snapshots_lost, fetches, compactions,
    conf_changes, joint_confs, members_added, members_removed, confs_undone,
    transfers_asked,
    reads_index, reads_lease, reads_follower, reads_rejected, lease_answers,
    lease_expiries, epochs_withdrawn, digests,
    resets, partitions, one_way_cuts, bridges, pauses, crashes, power_cuts, restarts,
    stuck_disks, failed_streams, clock_changes, clock_leaps, suspends,
    repairing, retired, state_damaged, repaired,
    strange_messages, rooms_closed,
}
