//! Protobuf schema, and the reading of messages by it.

use std::collections::HashMap;

use prost_reflect::prost_types::DescriptorProto;
use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor, SerializeOptions,
};
use protox::file::{File, FileResolver, GoogleFileResolver};

use super::count::{Wire, check_size};
use super::key_order::push_sorted;
use super::known_files::known_file;
use crate::document::{Document, Undecodable};
use crate::schema::{SchemaText, Unusable, unusable};

/// Compiled Protobuf schema.
#[derive(Debug)]
pub(crate) struct ProtobufSchema {
    file: FileDescriptor,
    /// Whether a message of it can have a map.
    has_maps: bool,
}

/// Name of the file that the schema is compiled as. No import can have it.
const FILE: &str = "(schema)";
/// Maximum number of message indexes: messages are nested no deeper.
const INDEXES_MAX: i64 = 32;

/// 64-bit integers as numbers with all their digits, and fields by the names of the schema, so that a pointer finds what
/// it finds in the other formats. A field without presence is there with its default: nothing tells it from one that was
/// set to it.
const OPTIONS: SerializeOptions = SerializeOptions::new()
    .stringify_64_bit_integers(false)
    .use_proto_field_name(true)
    .skip_default_fields(false);

impl ProtobufSchema {
    /// Compiles a schema, with the files that it imports.
    ///
    /// # Errors
    /// Explains what is wrong with it.
    pub(crate) fn parse(schema: &SchemaText) -> Result<Self, Unusable> {
        let imports = schema.references.iter();
        let files = Files {
            schema: &schema.text,
            imports: imports
                .map(|import| (import.name.as_str(), import.text.as_str()))
                .collect(),
        };
        let compile = || {
            let mut compiler = protox::Compiler::with_file_resolver(Owned::from(&files));
            compiler.include_imports(true).open_file(FILE)?;
            Ok::<_, protox::Error>(compiler.descriptor_pool())
        };
        let pool = compile().map_err(|error| match has_edition(schema) {
            true => {
                Unusable("it has an edition of Protobuf, and can only be read in proto2 or proto3".into())
            }
            false => unusable(&error),
        })?;
        let file = pool
            .get_file_by_name(FILE)
            .ok_or_else(|| Unusable("the schema was not compiled".into()))?;
        Ok(Self {
            file,
            has_maps: pool.all_messages().any(|message| message.is_map_entry()),
        })
    }

    /// Reads an encoded message, with the indexes of its type before it.
    ///
    /// # Errors
    /// It is no message of a type of this schema.
    pub(crate) fn read(&self, payload: &[u8]) -> Result<String, Undecodable> {
        let mut wire = Wire::new(payload);
        let message = self.message(&indexes(&mut wire)?)?;
        let payload = wire.rest();
        check_size(&message, payload)?;
        // The library's error is dropped: it may quote the value.
        let message = DynamicMessage::decode(message, payload).map_err(|_| {
            Undecodable("the value is no Protobuf message of the type that its indexes name".into())
        })?;
        let mut document = Document::default();
        let mut serializer = serde_json::Serializer::new(&mut document);
        message
            .serialize_with_options(&mut serializer, &OPTIONS)
            .map_err(|_| {
                Undecodable(
                    "the message has no JSON, or one that is too large: a well-known type is out of its range, or an Any \
                     has a type that the schema does not have"
                        .into(),
                )
            })?;
        if !self.has_maps {
            return document.into_text();
        }
        let mut sorted = Document::default();
        push_sorted(&mut sorted, &document.into_text()?)?;
        sorted.into_text()
    }

    /// Returns the type at these indexes: of the file, then of the messages in it.
    fn message(&self, indexes: &[usize]) -> Result<MessageDescriptor, Undecodable> {
        let missing = || Undecodable(format!("the schema has no message at the indexes {indexes:?}"));
        let (first, inner) = indexes.split_first().ok_or_else(missing)?;
        let message = self.file.messages().nth(*first).ok_or_else(missing)?;
        inner.iter().try_fold(message, |message, index| {
            // Serializers count the messages that the text declares, and a map or a group is none.
            let groups = groups(&message);
            let is_declared = |child: &MessageDescriptor| !child.is_map_entry() && !groups.contains(child);
            let declared = message.child_messages().filter(is_declared);
            let mut declared = declared.skip(*index);
            declared.next().ok_or_else(missing)
        })
    }
}

/// Returns the types that the groups of a message declare in it.
fn groups(message: &MessageDescriptor) -> Vec<MessageDescriptor> {
    let fields = message.fields().filter(FieldDescriptor::is_group);
    let extensions = message.child_extensions().filter(ExtensionDescriptor::is_group);
    let kinds = fields.map(|field| field.kind());
    kinds
        .chain(extensions.map(|extension| extension.kind()))
        .filter_map(|kind| kind.as_message().cloned())
        .collect()
}

/// Reads the indexes of the type: their number and each of them, or a 0 alone for the first message of the file.
fn indexes(wire: &mut Wire<'_>) -> Result<Vec<usize>, Undecodable> {
    let wrong = || Undecodable("the value does not begin with the indexes of a message type".into());
    let mut next = || {
        let encoded = wire.varint()?;
        Ok::<i64, Undecodable>((encoded >> 1).cast_signed() ^ -(encoded & 1).cast_signed())
    };
    let count = next()?;
    match count {
        0 => Ok(vec![0]),
        1..=INDEXES_MAX => (0..count)
            .map(|_| usize::try_from(next()?).map_err(|_| wrong()))
            .collect(),
        _ => Err(wrong()),
    }
}

/// Whether a file begins with an edition, which the compiler does not know.
fn has_edition(schema: &SchemaText) -> bool {
    let imports = schema.references.iter().map(|import| &import.text);
    let mut lines = [&schema.text]
        .into_iter()
        .chain(imports)
        .flat_map(|text| text.lines());
    lines.any(|line| {
        let rest = line.trim_start().strip_prefix("edition");
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    })
}

/// Files of a schema.
struct Files<'a> {
    schema: &'a str,
    imports: HashMap<&'a str, &'a str>,
}

/// The same files, for the compiler to keep.
struct Owned {
    schema: String,
    imports: HashMap<String, String>,
    google: GoogleFileResolver,
}

impl From<&Files<'_>> for Owned {
    fn from(files: &Files<'_>) -> Self {
        let owned = |(name, text): (&&str, &&str)| ((*name).to_owned(), (*text).to_owned());
        Self {
            schema: files.schema.to_owned(),
            imports: files.imports.iter().map(owned).collect(),
            google: GoogleFileResolver::new(),
        }
    }
}

impl FileResolver for Owned {
    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.imports.get(name) {
            _ if name == FILE => without_map_entry(File::from_source(name, &self.schema)?),
            Some(import) => without_map_entry(File::from_source(name, import)?),
            None => match known_file(name) {
                Some(text) => File::from_source(name, &text),
                // The files that come with each compiler.
                None => self.google.open_file(name),
            },
        }
    }
}

/// Message that is made a map's entry by hand.
#[derive(Debug, thiserror::Error)]
#[error(
    "the message {0:.64} sets the option map_entry, which compilers of Protobuf set for maps alone: write a field of type \
     map<KEY, VALUE> in its place"
)]
struct MapEntryByHand(String);

/// Returns a file in which no message is made a map's entry by hand.
// Such a one is declared, so that serializers count it, and is none in the compiled schema: the indexes of the messages
// after it would mean the wrong ones.
fn without_map_entry(file: File) -> Result<File, protox::Error> {
    // Those of maps have no option in the text.
    let is_set = |message: &DescriptorProto| {
        let options = message.options.iter();
        let mut set = options.flat_map(|options| &options.uninterpreted_option);
        set.any(|option| {
            let [part] = &*option.name else {
                return false;
            };
            let is_false = option.identifier_value.as_deref() == Some("false");
            part.name_part == "map_entry" && !part.is_extension && !is_false
        })
    };
    let mut open: Vec<&DescriptorProto> = file.file_descriptor_proto().message_type.iter().collect();
    while let Some(message) = open.pop() {
        if is_set(message) {
            return Err(protox::Error::new(MapEntryByHand(message.name().to_owned())));
        }
        open.extend(&message.nested_type);
    }
    Ok(file)
}
