import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.Stores;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

/**
 * Stage one as a Kafka Streams application: what the validator is compared with.
 *
 * <p>Each order whose key is new goes to the outbox, and its key to the store {@code idempotency-key-store}, whose
 * changelog is compacted, under {@code exactly_once_v2}. A key that is known is dropped, with a comparison of the
 * fingerprints. Checks and header are those of the validator's built-in form of orders.
 *
 * <p>Arguments: bootstrap servers, application id, orders topic, outbox topic, state directory, commit interval in
 * milliseconds, number of threads, size of the block cache in MiB, transactional state stores (true or false). Or one
 * argument, which prints the versions.
 */
public final class OrderValidator {
    private static final String STORE = "idempotency-key-store";

    private OrderValidator() {}

    public static void main(String[] arguments) throws IOException {
        if (arguments.length == 1) {
            Properties build = new Properties();
            try (InputStream file = KafkaStreams.class.getResourceAsStream("/kafka/kafka-streams-version.properties")) {
                build.load(file);
            }
            System.out.println("Kafka Streams " + build.get("version") + ", Java " + Runtime.version());
            return;
        }
        String outbox = arguments[3];
        Topology topology = new Topology();
        topology.addSource("orders", arguments[2]);
        topology.addProcessor("validate", Validate::new, "orders");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray())
                        // Without a cache: each key is written once, so that nothing would be gained.
                        .withCachingDisabled()
                        .withLoggingEnabled(Map.of("cleanup.policy", "compact")),
                "validate");
        topology.addSink("outbox", outbox, "validate");

        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments[5]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[6]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.TRANSACTIONAL_STATE_STORES_CONFIG, arguments[8]);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, SharedCache.class);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        SharedCache.open(Long.parseLong(arguments[7]) << 20);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // Fewer, larger requests, as for the validator.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), "10000");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), "20");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), "131072");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), "67108864");

        KafkaStreams streams = new KafkaStreams(topology, settings);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
    }

    /** The processor with the store. */
    private static final class Validate implements Processor<byte[], byte[], byte[], byte[]> {
        private static final ObjectMapper JSON = new ObjectMapper();

        private final MessageDigest sha256 = digest();
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> store;

        @Override
        public void init(ProcessorContext<byte[], byte[]> given) {
            context = given;
            store = given.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> order) {
            JsonNode parsed;
            try {
                parsed = JSON.readTree(order.value());
            } catch (IOException error) {
                // None of the measurement's orders is invalid: a dead letter would be written here.
                throw new IllegalStateException("an order is not JSON", error);
            }
            String id = parsed.path("order_id").asText();
            boolean isOrder = !id.isEmpty()
                    && Arrays.equals(order.key(), id.getBytes(StandardCharsets.UTF_8))
                    && parsed.path("amount").isIntegralNumber()
                    && parsed.path("amount").asLong() > 0
                    && parsed.path("currency").asText().length() == 3
                    && !parsed.path("customer_id").asText().isEmpty();
            if (!isOrder) {
                throw new IllegalStateException("a record is not an order");
            }
            byte[] fingerprint = sha256.digest(order.value());
            byte[] known = store.get(order.key());
            if (known != null) {
                if (!Arrays.equals(known, 0, 16, fingerprint, 0, 16)) {
                    throw new IllegalStateException("a key has another order");
                }
                return;
            }
            long now = System.currentTimeMillis();
            byte[] entry = ByteBuffer.allocate(32)
                    .put(fingerprint, 0, 16)
                    .putLong(now)
                    .putLong(context.recordMetadata().map(at -> at.offset()).orElse(-1L))
                    .array();
            store.put(order.key(), entry);
            context.forward(order.withTimestamp(now)
                    .withHeaders(new RecordHeaders(order.headers().toArray())
                            .add("outbox-admitted-at", Long.toString(now).getBytes(StandardCharsets.UTF_8))));
        }

        private static MessageDigest digest() {
            try {
                return MessageDigest.getInstance("SHA-256");
            } catch (NoSuchAlgorithmException error) {
                throw new IllegalStateException(error);
            }
        }
    }

    /** RocksDB as its guide for Kafka Streams advises: one cache for all stores, and filters. */
    public static final class SharedCache implements RocksDBConfigSetter {
        private static Cache cache;
        private static BloomFilter filter;

        static void open(long bytes) {
            org.rocksdb.RocksDB.loadLibrary();
            cache = new LRUCache(bytes);
            filter = new BloomFilter(10);
        }

        @Override
        public void setConfig(String store, Options options, Map<String, Object> settings) {
            BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
            table.setBlockCache(cache);
            table.setCacheIndexAndFilterBlocks(true);
            table.setFilterPolicy(filter);
            options.setTableFormatConfig(table);
        }

        @Override
        public void close(String store, Options options) {}
    }
}
