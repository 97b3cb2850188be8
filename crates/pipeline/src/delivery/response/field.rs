//! Rules for responses whose status says too little: legacy APIs love `200 {"result":"ERROR"}`. A rule names
//! the field of the body that decides, and the class of each of its values.

use serde_json::Value;

use super::{StatusClass, Statuses};

/// Rule that reads the bodies of responses with some statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// Statuses whose bodies are read.
    pub statuses: Vec<Statuses>,
    /// JSON pointer to the field.
    pub pointer: String,
    /// Classes of its values. Numbers, booleans and null are compared as they are written.
    pub values: Vec<(String, StatusClass)>,
    /// Class if the field is missing, or has another value.
    pub otherwise: Otherwise,
}

/// Class of a response whose field is missing or has an unknown value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The response is ambiguous.
    Ambiguous,
    /// The status decides, as without the rule.
    Status,
}

/// Field of a response's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field {
    /// No rule reads responses of this status.
    #[default]
    NotAsked,
    /// Value of the field: text, or a number, a boolean or null as it is written.
    Value(String),
    /// The body is complete and has no such field, or an object or a list in its place.
    Missing,
    /// The body is no JSON, broke off, or was too long to be read.
    Unreadable,
}

/// Error in a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// The pointer is no JSON pointer.
    #[error("{0:?} is no JSON pointer to a field: expected one such as \"/result\"")]
    Pointer(String),
    /// The rule reads no status.
    #[error(
        "the rule for the field {0} names no statuses, so it would never be used; name some, or remove it"
    )]
    NoStatuses(String),
    /// The rule names no value, so no response could be accepted.
    #[error(
        "the rule for the field {0} names no value at all, so that each response would be ambiguous; name \
         the values that mean accepted"
    )]
    NoValues(String),
    /// One value is in two classes.
    #[error(
        "in the rule for the field {pointer} the value {value:?} is in two classes; take it out of one of \
         them"
    )]
    Twice {
        /// Field of the rule.
        pointer: String,
        /// Value in two classes.
        value: String,
    },
    /// Two rules read one status.
    #[error(
        "the body of a response with status {status} is read by two rules: for the field {one}, and for \
         {other}; take the status out of one of them"
    )]
    Overlap {
        /// Status that both read.
        status: u16,
        /// Field of one rule.
        one: String,
        /// Field of the other rule.
        other: String,
    },
}

impl FieldRule {
    /// Returns `true` if the bodies of responses with this status are read.
    #[must_use]
    pub fn reads(&self, status: u16) -> bool {
        self.statuses.iter().any(|statuses| statuses.contain(status))
    }

    /// Returns the field of a body; `None` stands for a body that was not read to its end, or is no JSON.
    #[must_use]
    pub fn field(&self, body: Option<&Value>) -> Field {
        match body.map(|body| body.pointer(&self.pointer)) {
            // A body that broke off may have had the field.
            None => Field::Unreadable,
            Some(None | Some(Value::Object(_) | Value::Array(_))) => Field::Missing,
            Some(Some(Value::String(text))) => Field::Value(text.clone()),
            Some(Some(value)) => Field::Value(value.to_string()),
        }
    }

    /// Returns the class of a field; `None` if the status decides.
    pub(super) fn class(&self, field: &Field) -> Option<StatusClass> {
        let named = match field {
            Field::Value(text) => self.values.iter().find(|(value, _)| value == text),
            Field::Missing => None,
            // The field would decide and was not read. The status must not stand in for it: it may say 200
            // for an error.
            Field::Unreadable | Field::NotAsked => return Some(StatusClass::Ambiguous),
        };
        match (named, self.otherwise) {
            (Some((_, class)), _) => Some(*class),
            (None, Otherwise::Ambiguous) => Some(StatusClass::Ambiguous),
            (None, Otherwise::Status) => None,
        }
    }

    fn check(&self) -> Result<(), InvalidRule> {
        let pointer = || self.pointer.clone();
        // The empty pointer is valid JSON pointer syntax, but names the whole body and not a field.
        if !self.pointer.starts_with('/') {
            return Err(InvalidRule::Pointer(pointer()));
        }
        if self.statuses.is_empty() {
            return Err(InvalidRule::NoStatuses(pointer()));
        }
        if self.values.is_empty() {
            return Err(InvalidRule::NoValues(pointer()));
        }
        for (at, (value, class)) in self.values.iter().enumerate() {
            // The same value twice in one class is only redundant.
            let contradicts =
                |(other, other_class): &&(String, StatusClass)| other == value && other_class != class;
            if self.values[at + 1..].iter().any(|other| contradicts(&other)) {
                return Err(InvalidRule::Twice {
                    pointer: pointer(),
                    value: value.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Checks that each rule can match, and that no status is read by two.
pub(super) fn check(rules: &[FieldRule]) -> Result<(), InvalidRule> {
    for (at, one) in rules.iter().enumerate() {
        one.check()?;
        for other in &rules[at + 1..] {
            let pairs = one
                .statuses
                .iter()
                .flat_map(|a| other.statuses.iter().map(move |b| (a, b)));
            for (a, b) in pairs {
                if let Some(status) = a.first_in_both(*b) {
                    return Err(InvalidRule::Overlap {
                        status,
                        one: one.pointer.clone(),
                        other: other.pointer.clone(),
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{HttpResponse, Response, ResponseClass, ResponseClassifier};
    use super::*;

    fn rule() -> FieldRule {
        FieldRule {
            statuses: vec![Statuses::Hundred(2), Statuses::Exactly(409)],
            pointer: "/result/code".into(),
            values: vec![
                ("OK".into(), StatusClass::Accepted),
                ("0".into(), StatusClass::Accepted),
                ("ERROR".into(), StatusClass::Rejected),
                ("BUSY".into(), StatusClass::Retry),
            ],
            otherwise: Otherwise::Ambiguous,
        }
    }

    fn check(rule: &FieldRule, status: u16, body: &str, expected: ResponseClass) {
        let classifier = ResponseClassifier::new([(Statuses::Hundred(2), StatusClass::Accepted)])
            .expect("a table")
            .with_fields(vec![rule.clone()])
            .expect("a rule");
        let body: Option<Value> = serde_json::from_str(body).ok();
        let field = classifier
            .rule(status)
            .map_or(Field::NotAsked, |rule| rule.field(body.as_ref()));
        let http = HttpResponse {
            status,
            field,
            ..HttpResponse::default()
        };
        assert_eq!(
            classifier.class_of(&Response::Status(http)),
            expected,
            "{status} {body:?}"
        );
    }

    #[test]
    fn field_decides_before_the_status() {
        let rule = rule();
        for (body, expected) in [
            (r#"{"result":{"code":"OK"}}"#, ResponseClass::Accepted),
            (r#"{"result":{"code":0}}"#, ResponseClass::Accepted),
            (r#"{"result":{"code":"ERROR"}}"#, ResponseClass::Rejected),
            (r#"{"result":{"code":"BUSY"}}"#, ResponseClass::Retryable),
            // Values without a class.
            (r#"{"result":{"code":"ok"}}"#, ResponseClass::Ambiguous),
            (r#"{"result":{"code":["OK"]}}"#, ResponseClass::Ambiguous),
            (r#"{"result":"OK"}"#, ResponseClass::Ambiguous),
            // The field cannot be read.
            (r#"{"result":{"code":"O"#, ResponseClass::Ambiguous),
            ("<p>OK</p>", ResponseClass::Ambiguous),
            ("", ResponseClass::Ambiguous),
        ] {
            check(&rule, 200, body, expected);
        }
        check(&rule, 409, r#"{"result":{"code":"OK"}}"#, ResponseClass::Accepted);
        // Its body is not read.
        check(
            &rule,
            500,
            r#"{"result":{"code":"OK"}}"#,
            ResponseClass::Ambiguous,
        );
    }

    #[test]
    fn status_decides_if_the_field_is_unknown() {
        let rule = FieldRule {
            otherwise: Otherwise::Status,
            ..rule()
        };
        check(&rule, 200, "{}", ResponseClass::Accepted);
        check(&rule, 409, "{}", ResponseClass::Ambiguous);
        check(
            &rule,
            200,
            r#"{"result":{"code":"ERROR"}}"#,
            ResponseClass::Rejected,
        );
        // Not if the body cannot be read: the field may be there.
        check(&rule, 200, "<p>", ResponseClass::Ambiguous);
    }

    #[test]
    fn rules_that_can_never_match_are_refused() {
        let check = |change: fn(&mut FieldRule), names: &str| {
            let mut changed = rule();
            change(&mut changed);
            let refused = super::check(&[changed]).expect_err(names).to_string();
            assert!(refused.contains(names), "{refused}");
        };
        check(
            |rule| rule.pointer = "result".into(),
            "\"result\" is no JSON pointer",
        );
        check(|rule| rule.statuses.clear(), "names no statuses");
        check(|rule| rule.values.clear(), "names no value");
        check(
            |rule| rule.values.push(("0".into(), StatusClass::Retry)),
            "\"0\" is in two classes",
        );
        let overlapping = FieldRule {
            statuses: vec![Statuses::Range(209, 410)],
            pointer: "/status".into(),
            ..rule()
        };
        let refused = super::check(&[rule(), overlapping])
            .expect_err("an overlap")
            .to_string();
        assert!(
            refused.contains("status 209") && refused.contains("/status"),
            "{refused}"
        );
    }
}
