"""A plain consumer: what a subscription's speed is measured against.

    consumer.py BOOTSTRAP TOPIC COUNT

Consumes COUNT messages of partition 0 from its beginning.  Each is one
transaction: one INSERT, the update of the position, commit.  That is exactly
once too.  The environment says where the database is.
"""

import sys

import psycopg2
from confluent_kafka import Consumer, KafkaException, OFFSET_BEGINNING, TopicPartition

bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

database = psycopg2.connect('')
cursor = database.cursor()
cursor.execute('INSERT INTO bench.position VALUES (%s, 0, 0)', (topic,))
database.commit()

consumer = Consumer({'bootstrap.servers': bootstrap, 'group.id': 'plain',
                     'enable.auto.commit': False, 'isolation.level': 'read_committed'})
consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])

for _ in range(count):
    message = consumer.poll(60)
    if message is None:
        sys.exit('consumer.py: waited a minute for a message')
    if message.error():
        raise KafkaException(message.error())
    event_id = dict(message.headers())['id'].decode()
    cursor.execute('INSERT INTO bench.effect VALUES (%s, %s, %s)',
                   (event_id, message.key().decode(), message.value().decode()))
    cursor.execute('UPDATE bench.position SET next_offset = %s WHERE topic = %s AND partition = %s',
                   (message.offset() + 1, message.topic(), message.partition()))
    database.commit()

consumer.close()
