"""What is read of a file at most, so that no file takes more than 1 GB of memory or hours of time.

Sizes are bytes, unpacked. A file that goes beyond one is rejected with the limit in the message; METHOD.md
lists them.
"""

MB = 1_000_000
#: A line, or a record of CSV: the body of a response in base64 can be part of it.
LONGEST_LINE = 16 * MB
#: A HAR, which is read as a whole; bodies of responses are skipped without being decoded.
LARGEST_HAR = 200 * MB
#: Any other JSON document; decoded it takes up to 30 times its size.
LARGEST_DOCUMENT = 16 * MB
#: A tag, comment or attribute of XML.
LONGEST_TAG = MB
#: Bytes read since the last request, and what may be unpacked at any ratio.
WITHOUT_A_REQUEST = UNPACKED_FREELY = 250 * MB
#: Beyond UNPACKED_FREELY a file may be so many times its size on disk; logs of requests reach 50.
MOST_RATIO = 200
#: The counts of an HdrHistogram; 5 digits over the whole range of values need no more.
LARGEST_HISTOGRAM = 4 * MB

MOST_ROWS = 20_000_000
MOST_RUNS = 100  # that are made of one file
MOST_BROKEN = 1_000_000
MOST_BLANK = 1_000_000  # lines, one after the other
MOST_COLUMNS = 1_000
MOST_ENTRIES = 500_000  # of a HAR
MOST_LINES_OF_COUNTS = 1_000_000  # of a stats history or a percentile spectrum: they are kept to the end
MOST_USERS = 100_000  # users, or threads, that have names
DEEPEST = 100  # elements of XML inside each other

#: Characters of a label, URL or error text that are looked at: what a run keeps of them is shorter.
LONGEST_TEXT = 1_000
#: Characters of a name that is kept as it is.
LONGEST_NAME = 200
