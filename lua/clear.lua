-- Remove each room with its decode prefix length, and say what it was; or, for a rank, what is the rank's of it.
--
-- KEYS   feed, epoch, owned; each: room, prefix
-- ARGV   feed_length, rank, world_size; each: generation
-- REPLY  feed_id, epoch; each: outcome, status, reason
-- FEED   absent, status, rank
-- CODES  5 SKIPPED, 6 STALE, 7 CLEARED, -3 WORLD_SIZE
-- USES   feed
--
-- An empty generation clears whatever is there; through one, the clear is STALE once the room has another, and that
-- of a rank is refused by WORLD_SIZE, as its writes are, when the room has no ranks or other ones. A rank that clears
-- leaves its last status behind, for the others to agree with, and the key goes with the last of them. One that was
-- not heard of before the others failed has seen that, and now has cleared it, too. Its decode prefix length goes,
-- and no other rank's: that may be for the next request already. A key of another type (made by hand) is removed just
-- so: clearing is how one gets rid of it.

local reply, changes, renew = {false, redis.call('HGET', KEYS[2], 'epoch')}, {}, false
local rank = ARGV[2]
local own, cleared, length = 'status:' .. rank, 'cleared:' .. rank, 'length:' .. rank

local function is_any_left(room)
  for _, name in ipairs(redis.call('HKEYS', room)) do
    if string.find(name, '^status:') then return true end
  end
  return false
end

for i = 1, #ARGV - 3 do
  local room, prefix, fence = KEYS[i * 2 + 2], KEYS[i * 2 + 3], ARGV[i + 3]
  local was = redis.pcall('HMGET', room, 'status', 'reason', 'generation', 'world_size', own, cleared, 'owner')
  local is_there = was[1] or was.err
  local has_ranks = rank ~= '' and was[4]
  local outcome, status, goes = is_there and 7 or 5, was[1], true
  -- As in view.lua.
  if has_ranks then status = was[1] == 'Failed' and not was[6] and 'Failed' or was[5] end
  if fence ~= '' and was[3] ~= fence then
    outcome, goes = 6, false
  elseif fence ~= '' and rank ~= '' and (was[4] or '') ~= ARGV[3] then
    outcome, status, goes = -3, was[4] or '', false
  elseif rank ~= '' and (has_ranks or not is_there) then
    if type(redis.pcall('HDEL', prefix, length)) == 'table' then redis.call('DEL', prefix) end
    if has_ranks and not status then
      outcome, goes = fence == '' and 5 or 6, false
    elseif has_ranks then
      redis.call('HSET', room, cleared, was[5] or 'Failed')
      redis.call('HDEL', room, own)
      goes = not is_any_left(room)
      if not goes then
        local n = #changes
        changes[n + 1], changes[n + 2], changes[n + 3] = room, was[1], false
        changes[n + 4], changes[n + 5] = false, {'rank:' .. rank, 'absent'}
      elseif redis.call('HGET', prefix, 'generation') == was[3] then
        redis.call('DEL', prefix)
      end
    end
  else
    redis.call('DEL', prefix)
  end
  if goes then
    redis.call('DEL', room)
    if was[7] or not is_there then redis.call('ZREM', KEYS[3], string.sub(room, #KEYS[1] + 2)) end
    if is_there then
      local n = #changes
      changes[n + 1], changes[n + 2], changes[n + 3] = room, 'absent', false
      changes[n + 4], changes[n + 5] = false, false
    end
  end
  reply[i * 3], reply[i * 3 + 1], reply[i * 3 + 2] = outcome, status or false, was[2] or false
end
