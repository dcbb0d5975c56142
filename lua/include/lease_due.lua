-- The leases of a shard, when to check each again, and what a call reports. Times are milliseconds.
--
-- INCLUDE  clock
--
-- KEYS are epoch, leases, owned, feed, due. A lease is a field of leases, by its owner: "<incarnation> <ttl_ms>
-- <heartbeat_ms> <last_heartbeat_ms> <suspected_ms, or 0>", where ttl_ms is the lease's, not a room's, and heartbeat_ms
-- the time between heartbeats after one has failed. A field "lost <incarnation>" has the reason with which to fail the
-- rooms of that incarnation; it stays for an hour after that, with "failed <incarnation>", how many did. For operators:
-- "by <incarnation>" is the process that took the lease; "alive <incarnation>", when it sent a heartbeat for the name
-- that another one had taken from it. due has the time at which to check each lease again, by owner; "lost
-- <incarnation>": when to name it to another sweeper; "gone <incarnation>": when to forget it, an hour after its rooms
-- had failed.

local RETRY_MS, SHOWN_MS = 500, 3600000  -- the sweeper that was named a lost lease may have died; for operators
local findings = {}

local function has_rooms(incarnation)
  return redis.call('ZCOUNT', KEYS[3], incarnation, incarnation) > 0
end

local function set_due(member, at_ms)
  return redis.call('ZADD', KEYS[5], string.format('%.0f', at_ms), member)
end

local function report(finding, subject, reason)
  local n = #findings
  findings[n + 1], findings[n + 2], findings[n + 3] = finding, subject, reason
end

local function erase(incarnation)
  redis.call('HDEL', KEYS[2], 'lost ' .. incarnation, 'failed ' .. incarnation, 'by ' .. incarnation)
  redis.call('HDEL', KEYS[2], 'alive ' .. incarnation)
end

-- Marks an incarnation as lost, and names it to the caller. Without an owner, only its rooms are left of it. Adds to
-- due before it removes: while a cluster moves the slot, a script cannot create a key again that has become empty.
local function mark_lost(owner, incarnation, reason)
  if owner then redis.call('HDEL', KEYS[2], owner) end
  redis.call('HSETNX', KEYS[2], 'lost ' .. incarnation, reason)
  set_due('lost ' .. incarnation, now_ms + RETRY_MS)
  redis.call('ZREM', KEYS[5], 'gone ' .. incarnation, owner or '')
  report('lost', incarnation, reason)
end

-- Of a lost incarnation none of the rooms is left: what is still owned was added by hand, or points to others.
local function forget(incarnation, reason)
  if not reason then return end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], incarnation, incarnation)
  if not redis.call('ZSCORE', KEYS[5], 'lost ' .. incarnation) then return end
  if string.find(reason, ' left$') then
    erase(incarnation)
  else
    set_due('gone ' .. incarnation, now_ms + SHOWN_MS)
  end
  redis.call('ZREM', KEYS[5], 'lost ' .. incarnation)  -- last, as above
end

-- Tells the caller how soon the next lease is due: so a lost one is found in time, however rarely others are renewed.
local function report_next()
  local first = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', '+inf', 'LIMIT', '0', '1')[1]
  if first then report('next', string.format('%.0f', redis.call('ZSCORE', KEYS[5], first) - now_ms), '') end
end
