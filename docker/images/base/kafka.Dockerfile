# Stands in for the official image of Kafka: Debian with a Java runtime, Kafka's jars, and a start-up script that reads the
# same environment variables. Made by scripts/base-images.
FROM outbox-base/debian:bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group appuser \
    && install -d -o appuser -g appuser /var/lib/kafka/data
COPY jars/ /opt/kafka/libs/
COPY log4j2.xml /opt/kafka/config/log4j2.xml
COPY --chmod=755 bin/ /opt/kafka/bin/
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/opt/kafka/bin/start-from-environment.sh"]
