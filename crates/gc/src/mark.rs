//! Marking: from the roots along the edges; what stays unmarked goes.
//!
//! A node is reached *flatly*, along fields only, or *fully*, along labels too. Fully outranks
//! flatly, so a node is walked at most twice.

use crate::node::{Node, Object};
use crate::view::View;

/// What one collection removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Records to remove, in ascending order. Containers are never among them.
    pub remove: Vec<Node>,
    /// How many records stay.
    pub kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Not,
    Flatly,
    Fully,
}

impl View {
    /// Marks what lives and says what goes. More may be told afterwards and a new plan made.
    pub fn plan(&mut self) -> Plan {
        self.settle_conditions();
        let reached = self.mark();
        let mut plan = Plan::default();
        for (slot, reached) in self.nodes.iter().zip(reached) {
            if !slot.recorded {
                continue;
            }
            if reached == Reached::Not {
                plan.remove.push(slot.node.clone());
            } else {
                plan.kept += 1;
            }
        }
        plan.remove.sort_unstable();
        plan
    }

    /// Turns each condition that holds into an edge; one that does not may hold once more is told.
    fn settle_conditions(&mut self) {
        let Self { conditions, nodes, now, .. } = self;
        conditions.retain(|condition| {
            let holds = nodes[condition.snapshot]
                .used_at
                .iter()
                .any(|used| condition.tests.iter().any(|test| test.holds(*used, *now)));
            if holds {
                nodes[condition.parent].labels.push(condition.snapshot);
            }
            !holds
        });
    }

    fn mark(&self) -> Vec<Reached> {
        let mut reached = vec![Reached::Not; self.nodes.len()];
        let mut grey: Vec<usize> = Vec::new();
        let mut reach = |grey: &mut Vec<usize>, number: usize, how: Reached| {
            if reached[number] < how {
                reached[number] = how;
                grey.push(number);
            }
            reached[number]
        };
        for (number, slot) in self.nodes.iter().enumerate() {
            if slot.root {
                reach(&mut grey, number, Reached::Fully);
            }
        }
        while let Some(number) = grey.pop() {
            let slot = &self.nodes[number];
            let how = reach(&mut grey, number, Reached::Not);
            for child in &slot.fields {
                reach(&mut grey, *child, self.down(how, number, *child));
            }
            if how == Reached::Fully {
                for child in &slot.labels {
                    reach(&mut grey, *child, Reached::Fully);
                }
            }
        }
        reached
    }

    /// How a field's target is reached, its holder being reached so.
    fn down(&self, how: Reached, holder: usize, child: usize) -> Reached {
        let holder = &self.nodes[holder];
        if !matches!(holder.node.object, Object::Lease(_)) {
            return how;
        }
        match self.nodes[child].node.object {
            Object::Content(_) | Object::Snapshot { .. } | Object::Image(_) if holder.flat => {
                Reached::Flatly
            }
            _ => Reached::Fully,
        }
    }
}
