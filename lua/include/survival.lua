-- Whether a room that is absent was lost, by the feed of a server that has a prefix of the history. Times are
-- microseconds.
--
-- INCLUDE  clock, room_id, numbers, is_above
--
-- KEYS[1] is the feed. KEYS[5] has the rooms that were cleared after a replay had created them, by generation. A mark
-- names an entry: <id>/<room>/<value>, with one of its rooms and a value that follows it: its status, a rank's status,
-- or its generation. Without a room, the id has to do. A server whose clock is behind may use an id again. A feed
-- that was begun anew counts as trimmed, even before ids that no clock gives, which follow one made by hand.

local RECENT_US = 60000000  -- a replica or a disk that is further behind is none
local first_id, has_cleared

-- Returns true if the entry is there, false if it was lost, nil if the feed no longer reaches back to it.
local function survives(mark)
  local id, named, value = string.match(mark, '^(.-)/(%d*)/(.*)$')
  if not id then return nil end
  local entry = redis.pcall('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local is_named = named == ''
    for i = 1, #entry[2], 2 do
      if string.find(entry[2][i], '^%d+$') then is_named = entry[2][i] == named end
      if is_named and (value == '' or entry[2][i + 1] == value) then return true end
    end
    return false
  end
  first_id = first_id or (redis.pcall('XRANGE', KEYS[1], '-', '+', 'COUNT', '1')[1] or {''})[1]
  local first_time, first_number = string.match(first_id, '^(%d+)-(%d+)$')
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  if not first_time or not time or not is_number(time) or is_above(first_time, time) then return nil end
  if time == first_time and is_above(first_number, number) then return nil end
  return false
end

-- Returns why a room is not to be created again: 6 if it was cleared or has expired, 5 if that is its creator's task.
-- Nil if it is to be created.
local function absence(room, role, loss, generation, opened, written)
  if loss == 'none' then return 6 end
  has_cleared = has_cleared or redis.call('EXISTS', KEYS[5])
  local cleared = has_cleared == 1 and redis.pcall('HGET', KEYS[5], room_id(room))
  if type(cleared) == 'string' and is_number(cleared) and not is_above(generation, cleared) then return 6 end
  if role ~= 'creator' then return loss == 'server' and survives(written) and 6 or 5 end
  if loss == 'data' then return nil end
  local is_trimmed = opened == ''
  for mark in string.gmatch(opened, '%S+') do
    local survived = survives(mark)
    if survived then return 6 end
    is_trimmed = is_trimmed or survived == nil
  end
  read_clock()
  return is_trimmed and (survives(written) or now_us - generation > RECENT_US) and 6 or nil
end
