//! Order that counts the steps of its check, so that the check ends.
//!
//! A schema whose definitions refer to themselves in several alternatives is harmless until an order is nested deeply:
//! each level multiplies the work. The library has no limit on it, but checks values of any representation: this one
//! counts what it hands out.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson};
use jsonschema::{JsonType, ValidationError, Validator};
use serde_json::{Map, Number, Value};

/// Bytes of a text whose look is one step.
const BYTES_PER_STEP: u64 = 64;

/// Returns the number of steps of a look at all of a text.
pub(super) fn steps_of(text: &str) -> u64 {
    text.len() as u64 / BYTES_PER_STEP
}

/// Check that was not done: it would have taken more steps than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// What a check may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Maximum number of steps.
    pub(super) steps: u64,
    /// Steps of one value that is handed out: what a schema applies to it in place is not counted otherwise.
    pub(super) steps_per_value: u64,
    /// Maximum number of violations: the library keeps one for each alternative that failed, about a kilobyte each.
    pub(super) violations: u64,
}

/// Returns whether an order conforms.
///
/// # Errors
/// That would take too many steps.
pub(super) fn is_valid(
    validator: &Validator<Counted>,
    order: &Value,
    allowance: Allowance,
) -> Result<bool, Exhausted> {
    let left = Left::new(allowance);
    until_exhausted(|| validator.is_valid(left.node(order)))
}

/// Returns what `explain` makes of the first violation; `None` if there is none.
///
/// # Errors
/// That would take too many steps.
pub(super) fn explain<T>(
    validator: &Validator<Counted>,
    order: &Value,
    allowance: Allowance,
    explain: impl FnOnce(&ValidationError<'_>) -> T,
) -> Result<Option<T>, Exhausted> {
    let left = Left::new(allowance);
    until_exhausted(|| {
        let violation = validator.validate(left.node(order)).err();
        violation.map(|violation| explain(&violation))
    })
}

/// Runs a check until it has ended or [`Left::take`] ends it.
fn until_exhausted<T>(check: impl FnOnce() -> T) -> Result<T, Exhausted> {
    // What was on the stack is dropped, and nothing else has seen it.
    catch_unwind(AssertUnwindSafe(check)).map_err(|payload| match payload.downcast::<Exhausted>() {
        Ok(exhausted) => *exhausted,
        Err(panic) => resume_unwind(panic),
    })
}

/// What is left to a check.
pub(super) struct Left {
    steps: Cell<u64>,
    steps_per_value: u64,
    violations: Cell<u64>,
}

impl Left {
    fn new(allowance: Allowance) -> Self {
        Self {
            steps: Cell::new(allowance.steps),
            steps_per_value: allowance.steps_per_value,
            violations: Cell::new(allowance.violations),
        }
    }

    fn node<'a>(&'a self, value: &'a Value) -> CountedNode<'a> {
        CountedNode { value, left: self }
    }

    /// Hands out a value.
    fn hand_out<'a>(&'a self, value: &'a Value) -> CountedNode<'a> {
        Self::take(&self.steps, self.steps_per_value);
        self.node(value)
    }

    /// Counts a look at all of a value.
    fn look_at(&self, value: &Value) {
        match value {
            Value::String(text) => Self::take(&self.steps, steps_of(text)),
            Value::Array(elements) => self.look_at_all(elements),
            Value::Object(members) => {
                Self::take(&self.steps, members.len() as u64);
                members.values().for_each(|member| self.look_at(member));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn look_at_all(&self, elements: &[Value]) {
        Self::take(&self.steps, elements.len() as u64);
        elements.iter().for_each(|element| self.look_at(element));
    }

    /// Takes from what is left, and ends the check if that is too little.
    fn take(left: &Cell<u64>, taken: u64) {
        match left.get().checked_sub(taken) {
            Some(rest) => left.set(rest),
            // The library has no way to be stopped. No panic: no hook is called, and nothing is logged.
            None => resume_unwind(Box::new(Exhausted)),
        }
    }
}

/// Representation of JSON that is counted.
pub(super) struct Counted;

/// Value that is counted.
#[derive(Clone, Copy)]
pub(super) struct CountedNode<'a> {
    value: &'a Value,
    left: &'a Left,
}

impl Json for Counted {
    type Node<'a> = CountedNode<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    // As the library's own representation of the same values.
    const KEYS_PER_LOOKUP: usize = SerdeJson::KEYS_PER_LOOKUP;
    const ACYCLIC: bool = SerdeJson::ACYCLIC;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(CountedNode<'_>) -> T) -> T {
        // Not called for the names of an object, which `try_for_each_name_node` counts.
        let left = Left::new(Allowance {
            steps: u64::MAX,
            steps_per_value: 0,
            violations: u64::MAX,
        });
        *buffer = Value::String(string.to_owned());
        f(left.node(buffer))
    }
}

impl<'a> Node<'a, Counted> for CountedNode<'a> {
    type Object = CountedObject<'a>;
    type Array = CountedArray<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<CountedObject<'a>> {
        let members = self.value.as_object()?;
        let left = self.left;
        Some(CountedObject { members, left })
    }

    fn as_array(&self) -> Option<CountedArray<'a>> {
        let elements = self.value.as_array()?;
        let left = self.left;
        Some(CountedArray { elements, left })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.value.as_str()?;
        self.left.look_at(self.value);
        Some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.value.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.value.as_bool()
    }

    fn is_null(&self) -> bool {
        self.value.is_null()
    }

    fn is_number(&self) -> bool {
        self.value.is_number()
    }

    fn is_string(&self) -> bool {
        self.value.is_string()
    }

    fn json_type(&self) -> JsonType {
        Node::<SerdeJson>::json_type(&self.value)
    }

    fn string_length(&self) -> Option<u64> {
        self.left.look_at(self.value);
        Node::<SerdeJson>::string_length(&self.value)
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        self.left.look_at(self.value);
        Node::<SerdeJson>::string_length_within(&self.value, min, max)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        self.left.look_at(self.value);
        Node::<SerdeJson>::equals_value(&self.value, expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Left::take(&self.left.violations, 1);
        // Some violations quote it, at once.
        self.left.look_at(self.value);
        Cow::Borrowed(self.value)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Node::<SerdeJson>::identity(&self.value)
    }
}

/// Object that is counted.
pub(super) struct CountedObject<'a> {
    members: &'a Map<String, Value>,
    left: &'a Left,
}

impl<'a> Object<'a, Counted> for CountedObject<'a> {
    type Node = CountedNode<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn get(&self, key: &String) -> Option<CountedNode<'a>> {
        self.members.get(key).map(|value| self.left.hand_out(value))
    }

    fn members(&self) -> Members<'a> {
        Members {
            members: self.members.iter(),
            left: self.left,
        }
    }

    fn try_for_each_name_node<B>(
        &self,
        buffer: &mut Value,
        mut f: impl FnMut(CountedNode<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for name in self.members.keys() {
            *buffer = Value::String(name.clone());
            f(self.left.hand_out(buffer))?;
        }
        ControlFlow::Continue(())
    }
}

/// Members of an object that is counted.
pub(super) struct Members<'a> {
    members: serde_json::map::Iter<'a>,
    left: &'a Left,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, CountedNode<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next()?;
        Some((name, self.left.hand_out(value)))
    }
}

/// Array that is counted.
pub(super) struct CountedArray<'a> {
    elements: &'a [Value],
    left: &'a Left,
}

impl<'a> Array<'a, Counted> for CountedArray<'a> {
    type Node = CountedNode<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        self.elements.len()
    }

    fn elements(&self) -> Elements<'a> {
        Elements {
            elements: self.elements.iter(),
            left: self.left,
        }
    }

    fn is_unique(&self) -> bool {
        self.left.look_at_all(self.elements);
        Array::<SerdeJson>::is_unique(&self.elements)
    }
}

/// Elements of an array that is counted.
pub(super) struct Elements<'a> {
    elements: std::slice::Iter<'a, Value>,
    left: &'a Left,
}

impl<'a> Iterator for Elements<'a> {
    type Item = CountedNode<'a>;

    fn next(&mut self) -> Option<CountedNode<'a>> {
        self.elements.next().map(|value| self.left.hand_out(value))
    }
}
