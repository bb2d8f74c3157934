//! The promises of the machine, against arbitrary histories.

use super::*;
use proptest::prelude::*;

/// Something that can happen to a task, asked for or not, sensible or not.
#[derive(Clone, Copy, Debug)]
enum Input {
    AddExec(u8),
    BeginStart(u8),
    Started(u8),
    StartFailed(u8),
    Exited(u8),
    BeginPause,
    PauseDone(bool),
    Resume,
    Delete(u8),
    AllKilled,
}

/// 0 is init, others are execs.
fn who(n: u8) -> Who {
    if n == 0 { Who::Init } else { Who::Exec(n.to_string()) }
}

fn input() -> impl Strategy<Value = Input> {
    let process = 0u8..4;
    prop_oneof![
        2 => (1u8..4).prop_map(Input::AddExec),
        3 => process.clone().prop_map(Input::BeginStart),
        3 => process.clone().prop_map(Input::Started),
        1 => process.clone().prop_map(Input::StartFailed),
        3 => process.clone().prop_map(Input::Exited),
        1 => Just(Input::BeginPause),
        1 => any::<bool>().prop_map(Input::PauseDone),
        1 => Just(Input::Resume),
        1 => process.prop_map(Input::Delete),
        1 => Just(Input::AllKilled),
    ]
}

fn exit(status: u32) -> Exit {
    Exit { status, at: Timestamp { seconds: 1, nanos: 0 } }
}

fn apply(machine: &mut Machine, input: Input, n: u32) -> Vec<Effect> {
    match input {
        Input::AddExec(id) => machine.add_exec(&id.to_string()).unwrap_or_default(),
        Input::BeginStart(p) => {
            machine.begin_start(&who(p)).map(|()| Vec::new()).unwrap_or_default()
        }
        Input::Started(p) => machine.started(&who(p)),
        Input::StartFailed(p) => machine.start_failed(&who(p)),
        Input::Exited(p) => machine.exited(&who(p), exit(n)),
        Input::BeginPause => machine.begin_pause().map(|()| Vec::new()).unwrap_or_default(),
        Input::PauseDone(frozen) => machine.pause_done(frozen),
        Input::Resume if machine.check_resume().is_ok() => machine.resumed(),
        Input::Resume => Vec::new(),
        Input::AllKilled => machine.all_killed(),
        Input::Delete(p) => match machine.check_delete(&who(p)) {
            // A created init is killed; its deletion is reported once its exit has been.
            Ok(()) if p == 0 && machine.exit(&Who::Init).is_none() => {
                let mut effects = machine.exited(&Who::Init, exit(137));
                if machine.exit(&Who::Init).is_some() {
                    effects.extend(machine.deleted(&Who::Init));
                }
                effects
            }
            Ok(()) => machine.deleted(&who(p)),
            Err(_) => Vec::new(),
        },
    }
}

/// Plays a history and ends it as reality does: what was begun finishes, what lives ends.
fn play(shares_pids: bool, inputs: Vec<Input>) -> (Machine, Vec<Effect>) {
    let (mut machine, mut effects) = Machine::created("c", shares_pids);
    for (n, input) in inputs.into_iter().enumerate() {
        effects.extend(apply(&mut machine, input, u32::try_from(n).unwrap()));
    }
    for p in 0..4 {
        effects.extend(machine.started(&who(p)));
    }
    for p in 0..4 {
        effects.extend(machine.exited(&who(p), exit(200)));
    }
    effects.extend(machine.all_killed());
    (machine, effects)
}

fn place(effects: &[Effect], wanted: impl Fn(&Fact) -> bool) -> Vec<usize> {
    let is = |e: &Effect| matches!(e, Effect::Publish(fact) if wanted(fact));
    effects.iter().enumerate().filter(|(_, e)| is(e)).map(|(i, _)| i).collect()
}

fn exits_of(effects: &[Effect], who: &Who) -> Vec<usize> {
    place(effects, |f| matches!(f, Fact::Exited(w, _) if w == who))
}

/// An exec id is free again after its deletion; each of its lives is checked by itself.
fn lives_of_exec(effects: &[Effect], id: &str) -> Vec<(usize, usize)> {
    let added = place(effects, |f| *f == Fact::ExecAdded(id.to_owned()));
    let ends = added.iter().skip(1).copied().chain([effects.len()]);
    added.iter().copied().zip(ends).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn events_come_in_the_promised_order(
        shares_pids: bool, inputs in proptest::collection::vec(input(), 0..40)
    ) {
        let (_, effects) = play(shares_pids, inputs);
        let created = place(&effects, |f| *f == Fact::Created);
        let started = place(&effects, |f| *f == Fact::Started);
        let exited = exits_of(&effects, &Who::Init);
        let deleted = place(&effects, |f| *f == Fact::Deleted);
        prop_assert_eq!(&created, &[0]);
        prop_assert!(started.len() <= 1 && deleted.len() <= 1);
        prop_assert_eq!(exited.len(), 1, "init ends exactly once: {:?}", effects);
        prop_assert!(started.iter().all(|s| *s < exited[0]));
        prop_assert!(deleted.iter().all(|d| exited[0] < *d));
        for n in 1..4u8 {
            let id = n.to_string();
            for (from, to) in lives_of_exec(&effects, &id) {
                let within = |places: Vec<usize>| -> Vec<usize> {
                    places.into_iter().filter(|p| (from..to).contains(p)).collect()
                };
                let started = within(place(&effects, |f| *f == Fact::ExecStarted(id.clone())));
                let ended = within(exits_of(&effects, &who(n)));
                prop_assert!(started.len() <= 1 && ended.len() <= 1);
                prop_assert!(started.iter().zip(&ended).all(|(s, e)| s < e));
                if !started.is_empty() {
                    prop_assert_eq!(ended.len(), 1, "exec {} never ended: {:?}", id, effects);
                    prop_assert!(ended[0] < exited[0], "init ended before exec {}: {:?}", id, effects);
                }
            }
        }
    }

    #[test]
    fn every_exit_is_recorded_once_before_it_is_published_and_released_after(
        shares_pids: bool, inputs in proptest::collection::vec(input(), 0..40)
    ) {
        let (_, effects) = play(shares_pids, inputs);
        for (place, effect) in effects.iter().enumerate() {
            if let Effect::Publish(Fact::Exited(who, exit)) = effect {
                let record = Effect::Record(who.clone(), *exit);
                prop_assert!(effects[..place].contains(&record), "unrecorded {effect:?}");
                prop_assert_eq!(&effects[place + 1], &Effect::Release(who.clone()));
            }
        }
        let records = effects.iter().filter(|e| matches!(e, Effect::Record(Who::Init, _))).count();
        prop_assert_eq!(records, 1);
    }

    #[test]
    fn nothing_starts_once_init_is_reaped(
        shares_pids: bool, inputs in proptest::collection::vec(input(), 0..40)
    ) {
        let (mut machine, _) = Machine::created("c", shares_pids);
        let mut reaped = false;
        for (n, input) in inputs.into_iter().enumerate() {
            if reaped {
                for p in 1..4 {
                    let begun = machine.clone().begin_start(&who(p));
                    prop_assert!(begun.is_err());
                }
            }
            let effects = apply(&mut machine, input, u32::try_from(n).unwrap());
            reaped |= effects.iter().any(|e| matches!(e, Effect::Record(Who::Init, _)));
            prop_assert_eq!(reaped, machine.init_is_reaped());
        }
    }

    #[test]
    fn a_held_exit_always_has_someone_who_lets_it_go(
        shares_pids: bool, inputs in proptest::collection::vec(input(), 0..40)
    ) {
        let (mut machine, mut effects) = Machine::created("c", shares_pids);
        for (n, input) in inputs.into_iter().enumerate() {
            effects.extend(apply(&mut machine, input, u32::try_from(n).unwrap()));
            let held = machine.init_is_reaped() && exits_of(&effects, &Who::Init).is_empty();
            if held {
                prop_assert!(effects.contains(&Effect::ArmGrace));
                let freed = machine.clone().waited_long_enough();
                prop_assert_eq!(exits_of(&freed, &Who::Init).len(), 1);
            }
        }
    }
}

#[test]
fn the_texts_are_those_that_clients_know() {
    let (mut machine, _) = Machine::created("c", false);
    let init = Who::Init;
    let text = |result: Result<()>| result.unwrap_err().message();
    assert_eq!(text(machine.begin_pause()), "cannot pause task in created state");
    assert_eq!(text(machine.check_resume()), "cannot resume task in created state");
    assert_eq!(text(machine.check_checkpoint()), "cannot checkpoint a task in created state");
    machine.begin_start(&init).unwrap();
    machine.started(&init);
    assert_eq!(text(machine.begin_start(&init)), "cannot start a running process");
    assert_eq!(text(machine.check_delete(&init)), "cannot delete a running process");
    assert_eq!(text(machine.check_resume()), "cannot resume a running process");
    machine.begin_pause().unwrap();
    assert_eq!(machine.status(&init).unwrap(), Status::Pausing);
    machine.pause_done(true);
    assert_eq!(text(machine.begin_pause()), "cannot pause a paused container");
    assert_eq!(text(machine.check_delete(&init)), "cannot delete a paused process");
    assert_eq!(machine.add_exec("x").unwrap_err().message(), "cannot exec in a paused state");
    let effects = machine.exited(&init, exit(1));
    assert!(effects.contains(&Effect::Thaw));
    assert_eq!(text(machine.begin_pause()), "cannot pause a stopped container");
    assert_eq!(text(machine.check_resume()), "cannot resume a stopped container");
    assert_eq!(text(machine.check_update()), "cannot update a stopped container");
    assert_eq!(text(machine.begin_start(&init)), "cannot start a stopped process");
    assert_eq!(machine.add_exec("x").unwrap_err().message(), "cannot exec in a stopped state");
    machine.deleted(&init);
    assert_eq!(text(machine.check_delete(&init)), "cannot delete a deleted process: not found");
    let missing = machine.status(&Who::Exec("nope".into())).unwrap_err();
    assert_eq!(missing.message(), "process does not exist nope: not found");
}

#[test]
fn an_exec_cannot_start_in_a_container_whose_init_is_gone() {
    let (mut machine, _) = Machine::created("c", false);
    let exec = Who::Exec("x".into());
    machine.begin_start(&Who::Init).unwrap();
    machine.started(&Who::Init);
    machine.add_exec("x").unwrap();
    assert_eq!(machine.add_exec("x").unwrap_err().message(), "id x: already exists");
    machine.exited(&Who::Init, exit(0));
    let error = machine.begin_start(&exec).unwrap_err();
    assert_eq!(error.message(), "container c init process is not running: failed precondition");
}
