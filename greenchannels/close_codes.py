"""
Close codes that this package sends or reports.

Source: RFC 6455, section 7.4.1; 1012 and 1013 are from IANA's registry, 4401 is
our own.
"""

NORMAL = 1000
#: Never on the wire: the close frame had no code.
NO_CODE = 1005
#: Never on the wire: the connection broke without a close frame.
ABNORMAL = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
RESTART = 1012
TRY_LATER = 1013
#: The time in ``socket.expires`` has come.
EXPIRED = 4401
