//! What the daemon remembers of a task, and how word of an exit changes it: pure code.
//!
//! Invariants: a stopped task never lives again; the first word of an exit counts, later ones of
//! the same process change nothing; what is remembered of execs is bounded.

use crate::clock::Timestamp;

/// How many exits of execs a task remembers: far more than a shim could tell twice.
pub const EXEC_EXITS_MAX: usize = 32;

/// The status of a process nobody could say anything about.
pub const STATUS_UNKNOWN: u32 = 255;

/// What a process of a task is doing; the numbers are those of `containerd.v1.types.Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Not known.
    #[default]
    Unknown = 0,
    /// Made, its program not yet started.
    Created = 1,
    /// Its program runs.
    Running = 2,
    /// It has ended.
    Stopped = 3,
    /// Frozen.
    Paused = 4,
    /// Being frozen.
    Pausing = 5,
}

impl Status {
    /// The status of this number; [`Status::Unknown`] for one that nobody knows.
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Created,
            2 => Self::Running,
            3 => Self::Stopped,
            4 => Self::Paused,
            5 => Self::Pausing,
            _ => Self::Unknown,
        }
    }
}

/// Word of the end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exec; empty for init.
    pub exec_id: String,
    /// The process; 0 when not known.
    pub pid: u32,
    /// When it was started, in clock ticks since boot; 0 when not known.
    pub start_time: u64,
    /// Its code, or 128 and the signal.
    pub status: u32,
    /// When it ended.
    pub exited_at: Timestamp,
    /// Why the status is no word of the process itself; empty when it is.
    pub reason: String,
}

/// An exit and the entry of the event journal that reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedExit {
    /// What was told.
    pub exit: Exit,
    /// The entry's number.
    pub sequence: u64,
}

/// What changes about a task while it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    /// The last known status.
    pub status: Status,
    /// The init process; 0 when not known.
    pub pid: u32,
    /// When it was started, in clock ticks since boot; 0 when not known.
    pub start_time: u64,
    /// How it ended.
    pub exit: Option<RecordedExit>,
    /// How execs ended, the latest few, oldest first.
    pub exec_exits: Vec<RecordedExit>,
}

/// What word of an exit means to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nobody has told it yet.
    New,
    /// Told before; this entry of the journal reports it.
    Known(u64),
    /// Of a process that is none of this task's: an earlier task had the same id.
    Stranger,
}

/// Whether two numbers mean the same, where 0 means that one does not know.
fn agree(a: u64, b: u64) -> bool {
    a == b || a == 0 || b == 0
}

impl TaskState {
    /// What `exit` means to this task.
    pub fn hear(&self, exit: &Exit) -> Heard {
        if !exit.exec_id.is_empty() {
            let told = self.exec_exits.iter().find(|told| same_exec(&told.exit, exit));
            return told.map_or(Heard::New, |told| Heard::Known(told.sequence));
        }
        if !agree(self.pid.into(), exit.pid.into()) || !agree(self.start_time, exit.start_time) {
            return Heard::Stranger;
        }
        self.exit.as_ref().map_or(Heard::New, |told| Heard::Known(told.sequence))
    }

    /// Remembers an exit that is new. Returns the entry of the journal that nobody needs any more,
    /// if there is one.
    pub fn record(&mut self, exit: Exit, sequence: u64) -> Option<u64> {
        if exit.exec_id.is_empty() {
            self.status = Status::Stopped;
            if self.pid == 0 {
                self.pid = exit.pid;
            }
            self.exit = Some(RecordedExit { exit, sequence });
            return None;
        }
        self.exec_exits.push(RecordedExit { exit, sequence });
        let over = self.exec_exits.len() > EXEC_EXITS_MAX;
        over.then(|| self.exec_exits.remove(0).sequence)
    }

    /// Notes what the shim says init is doing. A shim's word is no exit: only
    /// [`TaskState::record`] stops a task.
    pub fn see(&mut self, status: Status, pid: u32) {
        if self.exit.is_none() && !matches!(status, Status::Stopped | Status::Unknown) {
            self.status = status;
            if pid != 0 {
                self.pid = pid;
            }
        }
    }

    /// The entries of the journal that report exits of this task.
    pub fn sequences(&self) -> impl Iterator<Item = u64> {
        self.exit.iter().chain(&self.exec_exits).map(|told| told.sequence)
    }
}

/// Execs may reuse the id and, in theory, the pid of an earlier one; the start time tells them
/// apart, or else the moment of the exit, which a shim repeats to the nanosecond.
fn same_exec(a: &Exit, b: &Exit) -> bool {
    let same_time = match (a.start_time, b.start_time) {
        (0, _) | (_, 0) => a.exited_at == b.exited_at,
        (a, b) => a == b,
    };
    a.exec_id == b.exec_id && a.pid == b.pid && same_time
}

/// Brings exits into the order in which they are told: by time, but those of a task's execs before
/// that of its init. `task` says whose an item is.
pub fn order_exits<T, K: PartialEq>(
    items: &mut [T],
    exit: impl Fn(&T) -> &Exit,
    task: impl Fn(&T) -> K,
) {
    let moment = |item: &T| {
        let own = exit(item);
        if own.exec_id.is_empty() {
            return (own.exited_at, true);
        }
        let of_init =
            items.iter().find(|other| exit(other).exec_id.is_empty() && task(other) == task(item));
        let latest = of_init.map_or(own.exited_at, |init| exit(init).exited_at);
        (own.exited_at.min(latest), false)
    };
    let moments: Vec<_> = items.iter().map(moment).collect();
    let mut places: Vec<usize> = (0..items.len()).collect();
    places.sort_by_key(|place| moments[*place]);
    // Applies the permutation by swaps: item `places[i]` goes to `i`.
    for i in 0..places.len() {
        let mut from = places[i];
        while from < i {
            from = places[from];
        }
        items.swap(i, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exit(exec: &str, pid: u32, at: i64) -> Exit {
        Exit {
            exec_id: exec.into(),
            pid,
            start_time: 0,
            status: 0,
            exited_at: Timestamp { seconds: at, nanos: 0 },
            reason: String::new(),
        }
    }

    fn running() -> TaskState {
        TaskState { status: Status::Running, pid: 7, start_time: 70, ..TaskState::default() }
    }

    #[test]
    fn the_first_word_of_an_exit_counts() {
        let mut task = running();
        assert_eq!(task.hear(&exit("", 7, 1)), Heard::New);
        task.record(exit("", 7, 1), 11);
        assert_eq!(task.status, Status::Stopped);
        assert_eq!(task.hear(&exit("", 7, 2)), Heard::Known(11));
        assert_eq!(task.hear(&exit("", 0, 3)), Heard::Known(11));
        task.see(Status::Running, 9);
        assert_eq!((task.status, task.pid), (Status::Stopped, 7));
    }

    #[test]
    fn the_exit_of_an_earlier_task_of_the_same_id_is_a_strangers() {
        let task = running();
        assert_eq!(task.hear(&exit("", 8, 1)), Heard::Stranger);
        assert_eq!(task.hear(&Exit { start_time: 71, ..exit("", 7, 1) }), Heard::Stranger);
        assert_eq!(task.hear(&Exit { start_time: 70, ..exit("", 7, 1) }), Heard::New);
    }

    #[test]
    fn an_exec_that_reuses_an_id_is_another_process() {
        let mut task = running();
        task.record(exit("e", 9, 1), 1);
        assert_eq!(task.hear(&exit("e", 9, 1)), Heard::Known(1));
        assert_eq!(task.hear(&exit("e", 9, 2)), Heard::New);
        assert_eq!(task.hear(&exit("e", 10, 1)), Heard::New);
        let mut timed = Exit { start_time: 5, ..exit("f", 9, 1) };
        task.record(timed.clone(), 2);
        timed.exited_at = Timestamp { seconds: 50, nanos: 0 };
        assert_eq!(task.hear(&timed), Heard::Known(2));
        timed.start_time = 6;
        assert_eq!(task.hear(&timed), Heard::New);
    }

    fn any_exit() -> impl Strategy<Value = Exit> {
        ("[ab]?", 1u32..3, 0i64..40).prop_map(|(exec, pid, at)| exit(&exec, pid, at))
    }

    proptest! {
        #[test]
        fn an_exit_is_recorded_at_most_once(told in proptest::collection::vec(any_exit(), 0..30)) {
            let mut task = TaskState { pid: 1, ..TaskState::default() };
            let mut recorded: Vec<Exit> = Vec::new();
            for (sequence, word) in told.into_iter().enumerate() {
                if task.hear(&word) == Heard::New {
                    let again = recorded.iter().any(|old| {
                        (word.exec_id.is_empty() && old.exec_id.is_empty()) || *old == word
                    });
                    prop_assert!(!again);
                    recorded.push(word.clone());
                    task.record(word, sequence as u64);
                }
            }
        }

        #[test]
        fn memory_of_execs_is_bounded_and_forgets_the_oldest(count in 0u64..100) {
            let mut task = running();
            let mut forgotten = Vec::new();
            for n in 0..count {
                forgotten.extend(task.record(exit("e", 9, n as i64), n));
            }
            prop_assert!(task.exec_exits.len() <= EXEC_EXITS_MAX);
            let kept: Vec<u64> = task.sequences().collect();
            forgotten.extend(kept);
            prop_assert_eq!(forgotten, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn exits_are_told_in_order(words in proptest::collection::vec((0u8..3, any_exit()), 0..20)) {
            let mut seen = Vec::new();
            let words: Vec<_> = words
                .into_iter()
                .filter(|(task, exit)| {
                    // A task has one init.
                    !exit.exec_id.is_empty() || !seen.contains(task) && { seen.push(*task); true }
                })
                .collect();
            let mut ordered = words.clone();
            order_exits(&mut ordered, |item| &item.1, |item| item.0);
            let mut same = ordered.clone();
            same.sort_by_key(|(task, exit)| (*task, exit.exec_id.clone(), exit.pid, exit.exited_at));
            let mut all = words;
            all.sort_by_key(|(task, exit)| (*task, exit.exec_id.clone(), exit.pid, exit.exited_at));
            prop_assert_eq!(same, all);
            for (i, (task, later)) in ordered.iter().enumerate() {
                for (other, earlier) in &ordered[..i] {
                    if task == other && earlier.exec_id.is_empty() {
                        prop_assert!(later.exec_id.is_empty(), "an exec's exit after init's");
                    }
                }
            }
        }
    }
}
