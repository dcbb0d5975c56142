-- What a call changes, for the change feed (feed.lua appends it).
--
-- changes has five words for each room that changed: its key; its new status, or absent; its new TTL, or false if that
-- stays; the reason if this change gives one, or false; {the rank's field in the feed, the rank's new status}, or
-- false. renew says whether the feed's TTL starts anew. Scripts append to changes in place, without a function: a call
-- of one room pays for every line.

local changes, renew = {}, false
