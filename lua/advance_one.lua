-- Merge one status into one generation of a room, as write.lua, in the usual case, with less to send. Times are
-- milliseconds.
--
-- KEYS     feed, epoch, leases; each: room
-- ARGV     feed_length, owner, incarnation; each: ttl_ms, status, generation
-- REPLY    feed_id, epoch; each: outcome, status
-- FEED     ttl_ms, status
-- CODES    2 ADVANCED, 3 UNCHANGED
--
-- The reply is false, and nothing is written, if the case is another: then write does all of it. The usual case is
-- without Failed (before or after), ranks, a lost lease or anything made by hand; the feed is there and takes the
-- entry. A test compares both scripts in every case. Each word of a call costs the server as much as a line here: this
-- has nine words less.
--
-- The entry comes first, as in update_one.lua.

local room, incoming, owner = KEYS[4], ARGV[5], ARGV[2]
local found = redis.pcall('HMGET', room, 'status', 'world_size', 'generation')
local current = found[1]
if not current or found[2] or found[3] ~= ARGV[6] or incoming == 'Failed' then return false end
local rises = current == 'Bootstrapping' and incoming ~= 'Bootstrapping'
  or current == 'WaitingForInput' and (incoming == 'Transferring' or incoming == 'Success')
  or current == 'Transferring' and incoming == 'Success'
local is_known = rises or current == 'Success' or current == 'Transferring' or current == 'WaitingForInput'
  or current == 'Bootstrapping'
if not is_known then return false end
if owner ~= '' then
  local lease = redis.call('HGET', KEYS[3], owner)
  if not lease or string.find(lease, ARGV[3] .. ' ', 1, true) ~= 1 then return false end
end

local epoch = redis.call('HGET', KEYS[2], 'epoch')  -- before any write: a key of another type refuses the call
if not rises then return {false, epoch, 3, current} end
local name = string.sub(room, #KEYS[1] + 2)  -- as in room_id.lua
local id = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', 'ttl_ms', ARGV[4], name, incoming)
if not id or id.err then return false end
local now_ms = string.sub(id, 1, 13)
if string.find(id, '-', 14, true) ~= 14 or now_ms >= '9' then  -- the last entry was made by hand
  local time = redis.call('TIME')
  now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
end
redis.call('PEXPIRE', room, ARGV[4])
redis.call('HSET', room, 'status', incoming, 'updated_ms', now_ms)
return {id, epoch, 2, incoming}
