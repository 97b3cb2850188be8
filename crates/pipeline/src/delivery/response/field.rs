//! Answers whose status does not tell: legacy APIs love `200 {"result":"ERROR"}`. A rule names the field of
//! the body that has the last word, and what each of its values means.

use serde_json::Value;

use super::{StatusClass, Statuses};

/// How the bodies of answers with some statuses are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The statuses whose bodies are read.
    pub statuses: Vec<Statuses>,
    /// Where the field stands, as a JSON pointer.
    pub pointer: String,
    /// What its values mean. Numbers, booleans and null are compared as they are written.
    pub values: Vec<(String, StatusClass)>,
    /// What it means that the field is missing, or has another value.
    pub otherwise: Otherwise,
}

/// What a field means that is missing or says something unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Nobody can know whether the order was processed.
    Ambiguous,
    /// The status decides, as if nobody had looked.
    Status,
}

/// What the field of an answer's body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field {
    /// No rule reads answers of this status.
    #[default]
    NotAsked,
    /// This value: text, or a number, a boolean or null as it is written.
    Value(String),
    /// The body is there as a whole and has no such field, or an object or a list in its place.
    Missing,
    /// The body is no JSON, broke off, or was too long to be read: nobody knows what the field says.
    Unreadable,
}

/// A rule that could never do what it is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// The pointer is none.
    #[error("{0:?} is no JSON pointer to a field: expected one such as \"/result\"")]
    Pointer(String),
    /// It reads no status.
    #[error("the rule for the field {0} names no statuses")]
    NoStatuses(String),
    /// No answer could ever be accepted, nor left to its status.
    #[error(
        "the rule for the field {0} names no value at all, so that each answer would be ambiguous; name the \
         values that mean accepted"
    )]
    NoValues(String),
    /// The same value in two classes.
    #[error("in the rule for the field {pointer} the value {value:?} is in two classes")]
    Twice {
        /// The rule's field.
        pointer: String,
        /// The value.
        value: String,
    },
    /// Two rules for one status.
    #[error(
        "the body of an answer with status {status} is read by two rules: for the field {one}, and for {other}"
    )]
    Overlap {
        /// The status.
        status: u16,
        /// A rule's field.
        one: String,
        /// The other's.
        other: String,
    },
}

impl FieldRule {
    /// Whether answers of this status are read.
    #[must_use]
    pub fn reads(&self, status: u16) -> bool {
        self.statuses.iter().any(|statuses| statuses.contain(status))
    }

    /// What the field says in an answer's body; `None` if the body was not read to its end, or is no JSON.
    #[must_use]
    pub fn field(&self, body: Option<&Value>) -> Field {
        match body.map(|body| body.pointer(&self.pointer)) {
            None => Field::Unreadable,
            Some(None | Some(Value::Object(_) | Value::Array(_))) => Field::Missing,
            Some(Some(Value::String(text))) => Field::Value(text.clone()),
            Some(Some(value)) => Field::Value(value.to_string()),
        }
    }

    /// What the field means; `None` if the status decides.
    pub(super) fn class(&self, field: &Field) -> Option<StatusClass> {
        let named = match field {
            Field::Value(text) => self.values.iter().find(|(value, _)| value == text),
            Field::Missing => None,
            // The field had the last word, and nobody has heard it.
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
            let is_same =
                |(other, other_class): &&(String, StatusClass)| other == value && other_class != class;
            if self.values[at + 1..].iter().any(|other| is_same(&other)) {
                return Err(InvalidRule::Twice {
                    pointer: pointer(),
                    value: value.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Whether each rule can do what it is for, and none stands in another's way.
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
        let classes = ResponseClassifier::new([(Statuses::Hundred(2), StatusClass::Accepted)])
            .expect("a table")
            .with_fields(vec![rule.clone()])
            .expect("a rule");
        let body: Option<Value> = serde_json::from_str(body).ok();
        let field = classes
            .rule(status)
            .map_or(Field::NotAsked, |rule| rule.field(body.as_ref()));
        let reply = HttpResponse {
            status,
            field,
            ..HttpResponse::default()
        };
        assert_eq!(
            classes.class_of(&Response::Status(reply)),
            expected,
            "{status} {body:?}"
        );
    }

    #[test]
    fn the_field_has_the_last_word() {
        let rule = rule();
        for (body, expected) in [
            (r#"{"result":{"code":"OK"}}"#, ResponseClass::Accepted),
            (r#"{"result":{"code":0}}"#, ResponseClass::Accepted),
            (r#"{"result":{"code":"ERROR"}}"#, ResponseClass::Rejected),
            (r#"{"result":{"code":"BUSY"}}"#, ResponseClass::Retryable),
            // Nobody has said what these mean.
            (r#"{"result":{"code":"ok"}}"#, ResponseClass::Ambiguous),
            (r#"{"result":{"code":["OK"]}}"#, ResponseClass::Ambiguous),
            (r#"{"result":"OK"}"#, ResponseClass::Ambiguous),
            // Nobody has heard it.
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
    fn where_the_field_says_nothing_the_status_may_decide() {
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
        // But not where nobody knows whether it says something.
        check(&rule, 200, "<p>", ResponseClass::Ambiguous);
    }

    #[test]
    fn rules_that_cannot_do_what_they_are_for_are_refused() {
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
