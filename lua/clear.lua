-- Remove each room with its decode prefix length, and say what it was; or, for a rank, what is the rank's of it.
--
-- KEYS   feed, epoch, owned; each: room, prefix
-- ARGV   feed_length, rank; each: generation
-- REPLY  feed_id, epoch; each: outcome, status, reason
-- FEED   absent, status, rank
-- CODES  5 SKIPPED, 6 STALE, 7 CLEARED
-- USES   feed
--
-- An empty generation clears whatever is there; through one, the clear is STALE once the room has another. A rank that
-- clears leaves its last status behind, for the others to agree with, and the key goes with the last of them. A key of
-- another type (made by hand) is removed just so: clearing is how one gets rid of it.

local reply, changes, renew = {false, redis.call('HGET', KEYS[2], 'epoch')}, {}, false
local rank = ARGV[2]
for i = 1, #ARGV - 2 do
  local room, prefix, fence = KEYS[i * 2 + 2], KEYS[i * 2 + 3], ARGV[i + 2]
  local was = redis.pcall('HMGET', room, 'status', 'reason', 'generation', 'world_size', 'status:' .. rank)
  local has_ranks = rank ~= '' and was[4]
  local outcome, status, goes = 7, was[1], true
  if has_ranks then status = was[5] and (was[1] == 'Failed' and 'Failed' or was[5]) end
  if fence ~= '' and was[3] ~= fence then
    outcome, goes = 6, false
  elseif has_ranks then
    if not status then
      outcome, goes = fence == '' and 5 or 6, false
    else
      redis.call('HSET', room, 'cleared:' .. rank, was[5])
      redis.call('HDEL', room, 'status:' .. rank)
      redis.pcall('HDEL', prefix, 'length:' .. rank)
      for _, name in ipairs(redis.call('HKEYS', room)) do
        if string.find(name, '^status:') then goes = false end
      end
      if not goes then
        local n = #changes
        changes[n + 1], changes[n + 2], changes[n + 3] = room, was[1], false
        changes[n + 4], changes[n + 5] = false, {'rank:' .. rank, 'absent'}
      end
    end
  end
  if goes then
    redis.call('DEL', room, prefix)
    redis.call('ZREM', KEYS[3], string.sub(room, #KEYS[1] + 2))
    if was[1] or was.err then
      local n = #changes
      changes[n + 1], changes[n + 2], changes[n + 3] = room, 'absent', false
      changes[n + 4], changes[n + 5] = false, false
    else
      outcome = 5
    end
  end
  reply[i * 3], reply[i * 3 + 1], reply[i * 3 + 2] = outcome, status or false, was[2] or false
end
