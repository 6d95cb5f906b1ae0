"""How long an event takes from publish() until its handler's commit is known.

    listener.py COUNT COMMAND...

Runs COMMAND, which publishes COUNT events, and waits for as many notifications
"id time-of-publish" on the channel done.  A handler sends them, so they arrive
when its transaction is committed, flushed and visible.  The environment says
where the handler's database is; all read the same clock.

Prints the rate that was reached, then median, 99th percentile and maximum in
milliseconds.  The first second does not count.
"""

import select
import subprocess
import sys
import time

import psycopg2

TIMEOUT = 30    # seconds without a notification
WARM_UP = 1     # second

count, command = int(sys.argv[1]), sys.argv[2:]

database = psycopg2.connect('')
database.autocommit = True
database.cursor().execute('LISTEN done')
publisher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

samples = []
while len(samples) < count:
    if not select.select([database], [], [], TIMEOUT)[0]:
        sys.exit(f'listener.py: {len(samples)} of {count} notifications, then none for {TIMEOUT} s')
    database.poll()
    arrived = time.time()
    for notification in database.notifies:
        published = float(notification.payload.split()[1])
        samples.append((published, arrived - published))
    database.notifies.clear()
errors = publisher.communicate()[1]
if publisher.returncode != 0:
    sys.exit(f'listener.py: {command[0]} failed: {errors.decode()}')

first, last = min(samples)[0], max(samples)[0]
taken = sorted(ms * 1000 for published, ms in samples if published >= first + WARM_UP)
print('%-9.0f %-7.2f %-7.2f %.2f' % (count / (last - first), taken[len(taken) // 2],
                                     taken[len(taken) * 99 // 100], taken[-1]))
