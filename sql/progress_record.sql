-- Records of the progress topic: what they say, and what is refused.
CREATE EXTENSION outbox;

-- a snapshot alone, and with transactions beside it
CREATE FUNCTION record(snapshot text, extras text) RETURNS text LANGUAGE sql AS $$
SELECT format('{"version": 1, "system_identifier": "7", "database": 5, "timeline": 1, "lsn": "0/10", "snapshot": "%s", "extras": "%s", "instance": "a"}', snapshot, extras)
$$;
SELECT extras, outbox.progress_snapshot(record('10:10:', extras))
FROM unnest(ARRAY['', '10', '10+2', '12', '12,2', '12+1,3', '5']) extras;
SELECT extras, outbox.progress_snapshot(record('10:20:10,12,15', extras))
FROM unnest(ARRAY['', '10', '10,2,3', '12,8', '10,2,3,5']) extras;

-- what a fold shows is what snapshot and extras show
SELECT n, pg_visible_in_snapshot(n::text::xid8, outbox.progress_snapshot(record('10:20:10,12,15', '12,8+1,3')))
FROM generate_series(9, 25) n;

-- a catch-up that was under way is told of beside the set
CREATE FUNCTION with_catchup(catchup text) RETURNS text LANGUAGE sql AS $$
SELECT replace(replace(record('10:10:', ''), '"version": 1', '"version": 2'), '}', format(', "catchup": %s}', catchup))
$$;
SELECT outbox.progress_snapshot(with_catchup('{"database_id": -3, "snapshot": "10:30:12", "lsn": "0/20", "safe_lsn": "0/30", "from_id": -9223372036854775808, "last_id": 5, "done": 4}'));
SELECT outbox.progress_snapshot(with_catchup('{}'));
SELECT outbox.progress_snapshot(with_catchup('7'));
SELECT outbox.progress_snapshot(with_catchup('{"database_id": -3, "snapshot": "10:30", "lsn": "0/20", "safe_lsn": "0/30", "from_id": 0, "last_id": 5, "done": 4}'));
SELECT outbox.progress_snapshot(with_catchup('{"database_id": -3, "snapshot": "10:30:", "lsn": "0/20", "safe_lsn": "0/30", "from_id": 0, "last_id": "five", "done": 4}'));
DROP FUNCTION with_catchup(text);

-- what nobody but a relay wrote
SELECT outbox.progress_snapshot('no json');
SELECT outbox.progress_snapshot('[]');
SELECT outbox.progress_snapshot('{}');
SELECT outbox.progress_snapshot(replace(record('10:10:', ''), '"version": 1', '"version": 3'));
SELECT outbox.progress_snapshot(record('10:10', ''));
SELECT outbox.progress_snapshot(record('10:10:', '+3'));
SELECT outbox.progress_snapshot(record('10:10:', '1+99999999999'));
SELECT outbox.progress_snapshot(record('20:10:', ''));
SELECT outbox.progress_snapshot(record('10:20:15,12', ''));
SELECT outbox.progress_snapshot(record('10:20:25', ''));
SELECT outbox.progress_snapshot(record('10:20:', '9000000000000000000'));
SELECT outbox.progress_snapshot(record('10:20:', '99999999999999999999'));
SELECT outbox.progress_snapshot(replace(record('10:10:', ''), '0/10', '0/100000000'));
SELECT outbox.progress_snapshot(replace(record('10:10:', ''), '"database": 5', '"database": [5]'));
SELECT outbox.progress_snapshot(repeat('[', 100000));
SELECT outbox.progress_snapshot(repeat('{"a":', 100000));
SELECT outbox.progress_snapshot(NULL);

-- members that a later release may add do no harm
SELECT outbox.progress_snapshot(replace(record('10:10:', '12'), '}', ', "more": [1, "]\"}", {"snapshot": "1:1:"}, true, null, []], "": {}}'));

-- whatever is cut off or changed: it is a record or it is none, and no other
-- error comes up
DO $$
DECLARE
	complete text := replace(replace(record('10:20:10,12,15', '12,8+1,3'), '"version": 1', '"version": 2'), '}',
		', "replay": [1, -2, 3], "catchup": {"database_id": -3, "snapshot": "10:30:12", "lsn": "0/20", "safe_lsn": "0/30", "from_id": 0, "last_id": 5, "done": 4}}');
	changed text;
BEGIN
	PERFORM outbox.progress_snapshot(complete);
	FOR i IN 1 .. length(complete) LOOP
		FOREACH changed IN ARRAY ARRAY[left(complete, i - 1), right(complete, -i)] ||
			(SELECT array_agg(overlay(complete PLACING c FROM i FOR 1)) FROM unnest(ARRAY['"', '\', '{', '}', '[', ',', '-', '/', '9', 'x', ' ', '']) c)
		LOOP
			BEGIN
				PERFORM outbox.progress_snapshot(changed);
			EXCEPTION WHEN data_corrupted OR feature_not_supported THEN
				NULL;
			END;
		END LOOP;
	END LOOP;
END
$$;


DROP FUNCTION record(text, text);
DROP EXTENSION outbox;
