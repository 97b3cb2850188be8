//! Form of an order: `[order]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use pipeline::admission::{OrderForm, OrderFormKind, OrderSchema};
use records::AmountForm;
use serde::{Deserialize, Serialize};

/// Form of an order: `[order]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrderSettings {
    /// What is checked of an order.
    pub(crate) form: OrderFormKind,
    /// Form of the amount in an order of the built-in form.
    pub(crate) amount: AmountForm,
    /// File of the JSON Schema; empty: none.
    pub(crate) schema: PathBuf,
}

impl OrderSettings {
    /// Returns the form of an order, and reads its schema if there is one.
    ///
    /// # Errors
    /// The settings contradict each other, or the schema cannot be read or used.
    pub(super) fn order_form(&self) -> anyhow::Result<OrderForm> {
        let OrderSettings { form, amount, schema } = self;
        let name = match form {
            OrderFormKind::BuiltIn => "built-in",
            OrderFormKind::KeyOnly => "key-only",
            OrderFormKind::JsonSchema => "json-schema",
        };
        let has_schema = !schema.as_os_str().is_empty();
        // Whoever writes one of these expects a check that is not made.
        if has_schema && *form != OrderFormKind::JsonSchema {
            bail!(
                "the setting order.schema is {}, but with order.form {name:?} no schema is checked; set order.form to \
                 \"json-schema\", or remove order.schema",
                schema.display()
            );
        }
        if *amount == AmountForm::Decimal && *form != OrderFormKind::BuiltIn {
            bail!(
                "the setting order.amount is \"decimal\", but with order.form {name:?} no amount is checked by it; \
                 set order.form to \"built-in\", or remove order.amount"
            );
        }
        Ok(match form {
            OrderFormKind::BuiltIn => OrderForm::BuiltIn(*amount),
            OrderFormKind::KeyOnly => OrderForm::KeyOnly,
            OrderFormKind::JsonSchema => OrderForm::JsonSchema(Arc::new(read_schema(schema)?)),
        })
    }
}

/// Reads and compiles the schema of the orders.
fn read_schema(path: &Path) -> anyhow::Result<OrderSchema> {
    ensure!(
        !path.as_os_str().is_empty(),
        "the setting order.form is \"json-schema\", and order.schema names no file; set it to the JSON Schema that \
         orders must conform to"
    );
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading {} (order.schema)", path.display()))?;
    OrderSchema::compile(&text).with_context(|| format!("{} (order.schema)", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn order_form(form: OrderFormKind, amount: AmountForm, schema: &Path) -> Result<OrderForm, String> {
        let schema = schema.to_owned();
        let config = Config {
            order: OrderSettings { form, amount, schema },
            ..Config::default()
        };
        config.check().map_err(|error| format!("{error:#}"))?;
        Ok(config.rules(1, 1_000).map_err(|error| error.to_string())?.form)
    }

    #[test]
    fn order_form_follows_the_settings() {
        use {AmountForm as Amount, OrderFormKind as Form};
        let form = |form, amount| order_form(form, amount, Path::new(""));
        assert_eq!(
            form(Form::BuiltIn, Amount::MinorUnits),
            Ok(OrderForm::BuiltIn(AmountForm::MinorUnits))
        );
        assert_eq!(
            form(Form::BuiltIn, Amount::Decimal),
            Ok(OrderForm::BuiltIn(AmountForm::Decimal))
        );
        assert_eq!(form(Form::KeyOnly, Amount::MinorUnits), Ok(OrderForm::KeyOnly));
        let error: String = form(Form::KeyOnly, Amount::Decimal).expect_err("a contradiction");
        assert!(error.contains("order.amount"), "{error}");
    }

    #[test]
    fn schema_of_orders_is_read_from_its_file() {
        use {AmountForm as Amount, OrderFormKind as Form};
        let file = tempfile::NamedTempFile::new().expect("a file");
        let with = |text: &str, form, amount| {
            std::fs::write(file.path(), text).expect("written");
            order_form(form, amount, file.path())
        };
        let text = r#"{"required":["order_id"]}"#;
        let schema = OrderSchema::compile(text).expect("a schema");
        assert_eq!(
            with(text, Form::JsonSchema, Amount::MinorUnits),
            Ok(OrderForm::JsonSchema(Arc::new(schema)))
        );
        let path = file.path().display().to_string();
        for (text, form, amount, words) in [
            (text, Form::BuiltIn, Amount::MinorUnits, "\"built-in\" no schema"),
            (text, Form::KeyOnly, Amount::MinorUnits, "\"key-only\" no schema"),
            (text, Form::JsonSchema, Amount::Decimal, "order.amount"),
            ("{", Form::JsonSchema, Amount::MinorUnits, "not valid JSON"),
            (
                r#"{"type":1}"#,
                Form::JsonSchema,
                Amount::MinorUnits,
                "invalid at \"/type\"",
            ),
            (
                r#"{"$ref":"https://shop.example/order.json"}"#,
                Form::JsonSchema,
                Amount::MinorUnits,
                "nothing is loaded",
            ),
        ] {
            let error = with(text, form, amount).expect_err(text);
            assert!(error.contains(words), "{words}: {error}");
            assert!(
                amount == Amount::Decimal || error.contains(&path) && error.contains("order.schema"),
                "{error}"
            );
        }
        for (path, words) in [("", "names no file"), ("/no/such/file", "reading /no/such/file")] {
            let error = order_form(Form::JsonSchema, Amount::MinorUnits, Path::new(path)).expect_err(path);
            assert!(error.contains(words) && error.contains("order.schema"), "{error}");
        }
    }
}
