//! Queue of restores, shared by the restore threads: a restore that failed waits at its end, so that it holds
//! up no other partition.
//!
//! It also says which partitions the thread of the standby stores may follow, as the file of a store has one handle: no
//! assigned one. Of one that is assigned, the thread gives up the store before the restore begins.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use records::Partition;

use super::RestoreJob;

/// Maximum wait before the queue is looked at again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Waiting restores, and the partitions of those that run.
#[derive(Default)]
pub(super) struct JobQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    // At most one wanted restore of each partition, and cancelled ones, which are taken first.
    waiting: VecDeque<Waiting>,
    running: HashSet<Partition>,
    /// Assigned partitions; `None` until the first assignment.
    assigned: Option<BTreeSet<Partition>>,
    /// Partitions whose standby stores are open.
    followed: BTreeSet<Partition>,
    is_closed: bool,
}

struct Waiting {
    /// End of the backoff.
    due: Instant,
    job: RestoreJob,
}

impl JobQueue {
    /// Adds a restore, to be performed as soon as a thread is free.
    pub(super) fn add(&self, job: RestoreJob) {
        let due = Instant::now();
        let mut state = self.lock();
        state.assigned.get_or_insert_default().insert(job.partition);
        state.waiting.push_back(Waiting { due, job });
        self.changed.notify_all();
    }

    /// Returns a failed restore to the end of the queue, where it waits until it is due.
    pub(super) fn retry(&self, job: RestoreJob, due: Instant) {
        let mut state = self.lock();
        state.running.remove(&job.partition);
        state.waiting.push_back(Waiting { due, job });
        self.changed.notify_all();
    }

    /// Ends the restore of a partition, so that its next one may run.
    pub(super) fn end(&self, partition: Partition) {
        self.lock().running.remove(&partition);
        self.changed.notify_all();
    }

    /// Takes note of the assigned partitions. The stores of all others are closed.
    pub(super) fn set_assigned<'a>(&self, partitions: impl Iterator<Item = &'a Partition>) {
        self.lock().assigned = Some(partitions.copied().collect());
    }

    /// Returns whether the standby store of a partition may be open, and takes note of it if so.
    pub(super) fn follow(&self, partition: Partition) -> bool {
        let mut state = self.lock();
        let may_follow = state.may_follow(partition);
        if may_follow {
            state.followed.insert(partition);
        }
        may_follow
    }

    /// Returns whether a standby store may stay open.
    pub(super) fn may_follow(&self, partition: Partition) -> bool {
        self.lock().may_follow(partition)
    }

    /// Takes note that the standby store of a partition is closed.
    pub(super) fn unfollow(&self, partition: Partition) {
        self.lock().followed.remove(&partition);
        self.changed.notify_all();
    }

    /// Waits for this time, or until a standby store is to be closed. Returns `false` once the queue is closed.
    pub(super) fn await_standby(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let is_wanted = |partition: &Partition| !state.may_follow(*partition);
            if state.is_closed || left.is_zero() || state.followed.iter().any(is_wanted) {
                return !state.is_closed;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Wakes the threads after a cancel flag was set.
    pub(super) fn wake(&self) {
        // Under the lock, so that no thread has read the flag already and begins to wait only now.
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// Ends the threads once they have nothing at hand.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits for the next restore. Returns `None` once the queue is closed.
    pub(super) fn take(&self) -> Option<RestoreJob> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let now = Instant::now();
            if let Some(job) = state.take(now) {
                return Some(job);
            }
            let due = state.waiting.iter().map(|waiting| waiting.due);
            let wait = due
                .filter(|due| *due > now)
                .min()
                .map_or(WAIT_MAX, |due| due - now);
            state = self
                .changed
                .wait_timeout(state, wait.min(WAIT_MAX))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic leaves the state valid: nothing that changes it can fail halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the first restore that may run.
    fn take(&mut self, now: Instant) -> Option<RestoreJob> {
        let number = self
            .waiting
            .iter()
            .position(|waiting| self.may_run(waiting, now))?;
        let Waiting { job, .. } = self.waiting.remove(number)?;
        self.running.insert(job.partition);
        Some(job)
    }

    fn may_run(&self, waiting: &Waiting, now: Instant) -> bool {
        let job = &waiting.job;
        // A cancelled restore has nothing to wait for, and its store is to be closed.
        let is_due = waiting.due <= now || job.cancelled.load(Ordering::Acquire);
        // One at a time for a partition, the earlier first: a cancelled restore has then closed the store's file
        // before the next one opens it.
        let is_next = |other: &Waiting| other.job.partition != job.partition || other.job.id >= job.id;
        is_due
            && !self.running.contains(&job.partition)
            && !self.followed.contains(&job.partition)
            && self.waiting.iter().all(is_next)
    }

    fn may_follow(&self, partition: Partition) -> bool {
        let is_assigned = self
            .assigned
            .as_ref()
            .is_none_or(|assigned| assigned.contains(&partition));
        // A cancelled restore closes its store when it is taken.
        let is_waiting = self
            .waiting
            .iter()
            .any(|waiting| waiting.job.partition == partition);
        !self.is_closed && !is_assigned && !is_waiting && !self.running.contains(&partition)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pipeline::admission::RestoreId;

    use super::*;

    const LATER: Duration = Duration::from_secs(3600);

    fn job(partition: i32, id: u64) -> RestoreJob {
        RestoreJob::new(Partition(partition), RestoreId(id), None, Arc::default())
    }

    fn taken(queue: &JobQueue, after: Duration) -> Option<(i32, u64)> {
        let job = queue.lock().take(Instant::now() + after)?;
        Some((job.partition.0, job.id.0))
    }

    #[test]
    fn failed_restore_waits_behind_its_neighbours() {
        let queue = JobQueue::default();
        queue.add(job(0, 1));
        queue.add(job(2, 2));
        let failed = queue.take().expect("a restore");
        assert_eq!(failed.partition, Partition(0));
        queue.retry(failed, Instant::now());
        queue.add(job(4, 3));
        let order = [(); 3].map(|()| taken(&queue, Duration::ZERO));
        assert_eq!(order, [Some((2, 2)), Some((0, 1)), Some((4, 3))]);
    }

    #[test]
    fn partition_has_one_restore_at_a_time() {
        let queue = JobQueue::default();
        queue.add(job(0, 1));
        let first = queue.take().expect("a restore");
        queue.add(job(0, 2));
        assert_eq!(taken(&queue, LATER), None, "the first is running");
        queue.retry(first, Instant::now() + LATER / 2);
        assert_eq!(taken(&queue, Duration::ZERO), None, "the first comes first");
        assert_eq!(taken(&queue, LATER), Some((0, 1)));
        queue.end(Partition(0));
        assert_eq!(taken(&queue, Duration::ZERO), Some((0, 2)));
    }

    #[test]
    fn standby_store_is_closed_before_its_restore() {
        let queue = Arc::new(JobQueue::default());
        let partition = Partition(3);
        assert!(!queue.follow(partition), "nothing is assigned yet");
        queue.set_assigned([Partition(0)].iter());
        assert!(!queue.follow(Partition(0)), "assigned");
        assert!(queue.follow(partition));
        assert!(queue.await_standby(Duration::ZERO));

        let follower = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.await_standby(LATER) && !queue.may_follow(partition)
        });
        queue.add(job(3, 1));
        assert!(
            follower.join().expect("no panic"),
            "woken, as the store is to be closed"
        );
        assert_eq!(taken(&queue, LATER), None, "the store is open");
        queue.unfollow(partition);
        assert_eq!(taken(&queue, Duration::ZERO), Some((3, 1)));

        assert!(!queue.follow(partition), "restored, and then running");
        queue.end(partition);
        assert!(!queue.follow(partition), "running");
        queue.set_assigned([Partition(0)].iter());
        assert!(queue.follow(partition), "released");
        queue.close();
        assert!(!queue.await_standby(LATER) && !queue.may_follow(partition));
    }

    #[test]
    fn cancelled_restore_waits_for_no_backoff() {
        let queue = Arc::new(JobQueue::default());
        let waiting = job(0, 1);
        let cancelled = Arc::clone(&waiting.cancelled);
        queue.retry(waiting, Instant::now() + LATER);
        let taker = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.take().map(|job| job.id)
        });
        std::thread::sleep(Duration::from_millis(50));
        cancelled.store(true, Ordering::Release);
        queue.wake();
        assert_eq!(taker.join().expect("no panic"), Some(RestoreId(1)));
        queue.close();
        assert!(queue.take().is_none());
    }
}
