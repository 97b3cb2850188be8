//! Bounds on the work of a JSON Schema: of its compilation, and of each value that it checks.
//!
//! A schema is written by others. A few lines of it can ask for more work than a machine does in a year: each of forty
//! definitions that refers twice to the next one. All of it is done by the thread that everything waits for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jsonschema::Uri;

use super::graph::{Graph, Id, TooLarge};

/// Maximum number of subschemas that can be applied to one value, each counted as often as ways lead to it.
const APPLIED_MAX: u64 = 10_000;
/// Maximum sum of these numbers over all subschemas: the library follows some of them for each as it compiles.
const APPLIED_SUM_MAX: u64 = 1_000_000;
/// Maximum number of subschemas that lead to one another at one value, each within the last.
const CHAIN_MAX: u64 = 100;
/// Maximum sum, over all subschemas, of the square of the number of ways through other schemas that lead there. The
/// library compiles a subschema for each way, and compares the ways with one another.
const WAYS_MAX: u64 = 5_000_000;

/// Work that a schema can ask for at one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Number of subschemas that are applied to it, each as often as ways lead there.
    pub(super) applied: u64,
    /// Number of subschemas that lead to one another, each within the last.
    pub(super) chain: u64,
}

impl Bounds {
    /// Returns the bounds of a schema. Takes linear time.
    ///
    /// # Errors
    /// They are too high, or there is none.
    pub(super) fn of(graph: &Graph) -> Result<Self, TooLarge> {
        check_ways(graph)?;
        let mut highest = Self { applied: 1, chain: 1 };
        let mut bounds: Vec<Option<Applied>> = (0..graph.len()).map(|_| None).collect();
        let mut sum = 0_u64;
        for id in each_after_its_targets(graph)? {
            let applied = Applied::of(graph, id, &bounds);
            let at = || at(graph, id);
            if applied.validated > APPLIED_MAX {
                return Err(TooLarge(format!(
                    "its references and combinations (allOf, anyOf, oneOf, not, if, dependentSchemas) apply more than \
                     {APPLIED_MAX} subschemas to one value, {}. Let definitions refer to one another less often",
                    at()
                )));
            }
            if applied.chain > CHAIN_MAX {
                return Err(TooLarge(format!(
                    "more than {CHAIN_MAX} of its subschemas refer to one another for one value, {}. Let them refer \
                     directly to what they mean",
                    at()
                )));
            }
            sum = sum.saturating_add(applied.validated);
            if sum > APPLIED_SUM_MAX {
                return Err(TooLarge(format!(
                    "its references and combinations apply subschemas in more than {APPLIED_SUM_MAX} ways. Let \
                     definitions refer to one another less often, or split it"
                )));
            }
            highest.applied = highest.applied.max(applied.validated);
            highest.chain = highest.chain.max(applied.chain);
            bounds[id] = Some(applied);
        }
        Ok(highest)
    }
}

/// Work of one subschema at one value.
struct Applied {
    /// Subschemas that are applied to check the value.
    validated: u64,
    /// Subschemas that are applied to find which members are checked.
    marked: u64,
    /// Subschemas that lead to one another.
    chain: u64,
}

impl Applied {
    /// Of a subschema whose targets are known.
    fn of(graph: &Graph, id: Id, bounds: &[Option<Self>]) -> Self {
        let subschema = graph.get(id);
        let mut of = Self {
            validated: 1,
            marked: 1,
            chain: 1,
        };
        let mut add = |target: Id, is_checked_again: bool| {
            let Some(target) = &bounds[target] else {
                return;
            };
            of.validated = of.validated.saturating_add(target.validated);
            of.marked = of.marked.saturating_add(target.marked);
            if is_checked_again {
                of.marked = of.marked.saturating_add(target.validated);
            }
            of.chain = of.chain.max(target.chain + 1);
        };
        // The library checks a part again before it asks which members that one has checked, and no reference.
        subschema.same_value.iter().for_each(|part| add(*part, true));
        let referred = subschema.referred.iter().chain(&subschema.dynamic);
        referred.for_each(|target| add(*target, false));
        let marked = subschema.unevaluated.saturating_mul(of.marked);
        of.validated = of.validated.saturating_add(marked);
        of
    }
}

/// Returns all subschemas, each after those that are applied to the same value.
///
/// # Errors
/// One leads back to itself: no value would be checked to an end.
fn each_after_its_targets(graph: &Graph) -> Result<Vec<Id>, TooLarge> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; graph.len()];
    let mut order = Vec::with_capacity(graph.len());
    for root in 0..graph.len() {
        // Not by recursion, which a schema could make as deep as it has subschemas.
        let mut open: Vec<(Id, std::vec::IntoIter<Id>)> = Vec::new();
        let targets = |id| graph.get(id).in_place().collect::<Vec<_>>().into_iter();
        if states[root] == State::New {
            states[root] = State::Open;
            open.push((root, targets(root)));
        }
        while let Some((id, rest)) = open.last_mut() {
            let Some(target) = rest.next() else {
                states[*id] = State::Done;
                order.push(*id);
                open.pop();
                continue;
            };
            match states[target] {
                State::Done => {}
                State::New => {
                    states[target] = State::Open;
                    open.push((target, targets(target)));
                }
                State::Open => {
                    return Err(TooLarge(format!(
                        "a subschema refers back to itself for one and the same value, {}, so that no check would end. \
                         Let it refer to itself for members or elements alone",
                        at(graph, target)
                    )));
                }
            }
        }
    }
    Ok(order)
}

/// Checks that not too many ways through schemas with URIs of their own lead to a subschema.
// Which way has led to it decides what a dynamic reference means, so that the library takes each as another schema,
// also where there is no such reference.
fn check_ways(graph: &Graph) -> Result<(), TooLarge> {
    if graph.len() == 0 {
        return Ok(());
    }
    let mut ways = Ways::default();
    let mut done: HashSet<(Id, WayId)> = HashSet::new();
    let mut numbers = vec![0_u64; graph.len()];
    let mut is_open = vec![false; graph.len()];
    let mut sum = 0_u64;
    let mut open = vec![(0, ways.edges(graph, 0, 0))];
    is_open[0] = true;
    while let Some((id, rest)) = open.last_mut() {
        let Some((target, way)) = rest.next() else {
            is_open[*id] = false;
            open.pop();
            continue;
        };
        if is_open[target] || !done.insert((target, way)) {
            continue;
        }
        sum = sum.saturating_add(2 * numbers[target] + 1);
        numbers[target] += 1;
        if sum > WAYS_MAX {
            return Err(TooLarge(format!(
                "too many ways lead through its parts with an $id, or through the schemas that it refers to, {}. Let them \
                 refer to one another less often, or leave out the $id of parts",
                at(graph, target)
            )));
        }
        is_open[target] = true;
        open.push((target, ways.edges(graph, target, way)));
    }
    Ok(())
}

/// Number of a way; 0 is the one that has passed nothing.
type WayId = usize;

/// Ways through schemas with URIs of their own.
#[derive(Default)]
struct Ways<'a> {
    /// By the way before, and the schema that was passed last.
    numbers: HashMap<(WayId, &'a Uri<String>), WayId>,
}

impl<'a> Ways<'a> {
    /// Returns the edges of a subschema, each with the way that it continues.
    fn edges(&mut self, graph: &'a Graph, id: Id, way: WayId) -> std::vec::IntoIter<(Id, WayId)> {
        let subschema = graph.get(id);
        let parts = subschema.same_value.iter().chain(&subschema.inner);
        let mut edges: Vec<_> = parts.map(|part| (*part, way)).collect();
        for target in &subschema.referred {
            let base = subschema.base.as_ref();
            // As the library continues the scope of dynamic references.
            let passed = base.filter(|base| way == 0 || graph.get(*target).base.as_ref() != Some(base));
            let way = passed.map_or(way, |base| self.number(way, base));
            edges.push((*target, way));
        }
        edges.into_iter()
    }

    fn number(&mut self, way: WayId, passed: &'a Arc<Uri<String>>) -> WayId {
        let next = self.numbers.len() + 1;
        *self.numbers.entry((way, passed)).or_insert(next)
    }
}

/// Says where a subschema is.
fn at(graph: &Graph, id: Id) -> String {
    let found_at: String = graph.get(id).found_at.chars().take(64).collect();
    format!("at or within {found_at:?}")
}
