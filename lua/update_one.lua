-- Merge one status into one room, in the usual case, where the policy does not matter: in three fifths of the time.
-- Times are milliseconds.
--
-- KEYS     feed, epoch; each: room
-- ARGV     feed_length, epoch_ttl_ms; each: ttl_ms, status
-- REPLY    each: done
-- FEED     ttl_ms, status, first
--
-- done is the status of a room that stays as it is; the id of the entry of one that was advanced; the same after a + if
-- it was created. It is false, and nothing is written, if the case is another: then update does all of it. The usual
-- case is without Failed (before or after), ranks, a late status in an absent room, anything made by hand; the feed is
-- there and takes the entry. A test compares both scripts in every case.
--
-- The entry comes first, since its id has the time: the server's, or the last entry's if that is later.

local room, ttl_ms, incoming = KEYS[3], ARGV[3], ARGV[4]
local fields = redis.pcall('HMGET', room, 'status', 'world_size')
local current, last = fields[1]
if fields.err or fields[2] or incoming == 'Failed' then return false end

local is_early = incoming == 'Bootstrapping' or incoming == 'WaitingForInput'
if current then
  local rises = current == 'Bootstrapping' and incoming ~= 'Bootstrapping'
    or current == 'WaitingForInput' and not is_early
    or current == 'Transferring' and incoming == 'Success'
  if not rises then
    local is_known = current == 'Success' or current == 'Transferring' or current == 'WaitingForInput'
      or current == 'Bootstrapping'
    return is_known and current
  end
else
  last = is_early and redis.pcall('HGET', KEYS[2], 'generation')
  if not last or last.err or #last ~= 16 or not string.find(last, '^[1-8]%d+$') then return false end
end

local name = string.sub(room, #KEYS[1] + 2)  -- as in room_id.lua
local id
if current then  -- who creates a room trims the feed: that is often enough, and each word costs
  id = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', 'ttl_ms', ttl_ms, name, incoming)
else
  id = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', 'ttl_ms', ttl_ms, name, incoming,
    'first', '')
end
if not id or id.err then return false end
local now_ms = string.sub(id, 1, 13)
if string.find(id, '-', 14, true) ~= 14 or now_ms >= '9' then  -- the last entry was made by hand
  local time = redis.call('TIME')
  now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
end

if current then
  redis.call('HSET', room, 'status', incoming, 'updated_ms', now_ms)
  redis.call('PEXPIRE', room, ttl_ms)
  return id
end
local generation = now_ms .. '000'
if last >= generation then generation = string.format('%.0f', last + 1) end  -- as in next_generation.lua
redis.call('HSET', KEYS[2], 'generation', generation)
-- The shard's keys live for a day or longer: every 17 minutes, when the first seven digits change, is often enough.
if string.sub(last, 1, 7) ~= string.sub(now_ms, 1, 7) then
  redis.call('PEXPIRE', KEYS[1], '86400000')  -- as in feed.lua
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('HSET', room, 'status', incoming, 'generation', generation, 'opened_ms', now_ms, 'updated_ms', now_ms)
redis.call('PEXPIRE', room, ttl_ms)
return '+' .. id
