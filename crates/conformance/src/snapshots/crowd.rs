//! Calls that meet.

use gantry_core::{Kind, Labels};
use tokio::task::JoinSet;

use super::{World, key};

const MANY: usize = 16;

/// Of many that prepare one key, one succeeds and the others learn that it exists.
pub async fn one_of_many_prepares_of_a_key_wins(world: World) {
    let mut calls = JoinSet::new();
    for _ in 0..MANY {
        let (s, cx) = (world.snapshotter.clone(), world.cx.clone());
        calls.spawn(async move { s.prepare(&cx, &key("a"), None, Labels::default()).await });
    }
    let mut wins = 0;
    for outcome in calls.join_all().await {
        match outcome {
            Ok(_) => wins += 1,
            Err(error) => assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.message()),
        }
    }
    assert_eq!(wins, 1);
    let mounts = world.snapshotter.mounts(&world.cx, &key("a")).await.unwrap();
    assert_eq!(mounts.len(), 1);
}

/// Of many that commit different keys to one name, one succeeds and the others keep their keys.
pub async fn one_of_many_commits_of_a_name_wins(world: World) {
    let mut calls = JoinSet::new();
    for number in 0..MANY {
        let active = format!("a{number}");
        world.prepare(&active, None).await;
        let (s, cx) = (world.snapshotter.clone(), world.cx.clone());
        calls.spawn(async move {
            s.commit(&cx, &key("c"), &key(&active), None, Labels::default()).await
        });
    }
    let mut wins = 0;
    for outcome in calls.join_all().await {
        match outcome {
            Ok(()) => wins += 1,
            Err(error) => assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.message()),
        }
    }
    assert_eq!(wins, 1);
    assert_eq!(world.names(&["kind==active"]).await.len(), MANY - 1);
}

/// Commits that share a sync all end well.
pub async fn commits_that_meet_all_succeed(world: World) {
    let mut calls = JoinSet::new();
    for number in 0..MANY {
        let active = format!("a{number:02}");
        world.prepare(&active, None).await;
        let (s, cx) = (world.snapshotter.clone(), world.cx.clone());
        calls.spawn(async move {
            let name = key(&format!("c{number:02}"));
            s.commit(&cx, &name, &key(&active), None, Labels::default()).await.unwrap();
        });
    }
    calls.join_all().await;
    let expected: Vec<_> = (0..MANY).map(|n| format!("c{n:02}")).collect();
    assert_eq!(world.names(&[]).await, expected);
}

/// A parent is removed or gets a child, never both.
pub async fn a_removal_and_a_child_exclude_each_other(world: World) {
    for round in 0..MANY {
        let (parent, child) = (format!("p{round}"), format!("a{round}"));
        world.layer(&parent, None).await;
        let (s, cx) = (world.snapshotter.clone(), world.cx.clone());
        let (parent_key, child_key) = (key(&parent), key(&child));
        let (made, removed) = tokio::join!(
            s.prepare(&cx, &child_key, Some(&parent_key), Labels::default()),
            s.remove(&cx, &parent_key)
        );
        match (made, removed) {
            (Ok(_), Err(error)) => assert_eq!(error.kind(), Kind::FailedPrecondition),
            (Err(error), Ok(())) => {
                assert_eq!(error.kind(), Kind::NotFound, "{}", error.message());
                assert!(world.gone(&child).await);
            }
            (made, removed) => panic!("child: {made:?}, removal: {removed:?}"),
        }
    }
}
